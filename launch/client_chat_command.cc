// `intermix client chat`: a conversation with a server.
#include <cstdio>
#include <memory>

#include "launch/chat.h"
#include "launch/commands.h"
#include "launch/logging.h"
#include "launch/request_options.h"

namespace intermix {

void AddClientChatCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand(
      "chat", "Talk with the model, by its own chat template; Ctrl-C stops an answer");
  const auto options = std::make_shared<ChatOptions>();
  options->sampling.set_max_tokens(1024);
  AddClientOptions(*command, options->client);
  command->add_option("--system", options->system, "The system's message, before all others");
  AddSamplingOptions(*command, &options->sampling);
  command->callback([options, exit_code] {
    Interrupts interrupts;
    *exit_code = SetUpLogging("warning", -1).ok() ? Chat(*options, interrupts).Run() : 1;
  });
}

}  // namespace intermix
