// `intermix client generate`: asks a server and prints the answer as it comes. Ctrl-C cancels.
#include <memory>

#include "intermix/v1/inference.grpc.pb.h"
#include "launch/client.h"
#include "launch/commands.h"
#include "launch/logging.h"
#include "launch/request_options.h"
#include "launch/signal_watcher.h"

namespace intermix {
namespace {

struct ClientGenerateOptions {
  ClientOptions client;
  RequestOptions request;
};

int RunClientGenerate(ClientGenerateOptions& options) {
  SignalWatcher signals;
  signals.Start(absl::Seconds(5));
  absl::Status ready = SetUpLogging("warning", -1);
  if (ready.ok()) ready = FinishRequest(options.request);
  if (!ready.ok()) {
    std::fprintf(stderr, "intermix: %s\n", std::string(ready.message()).c_str());
    return 1;
  }
  const auto stub = v1::Inference::NewStub(Connect(options.client));
  grpc::ClientContext context;
  SetDeadline(options.client, context);
  signals.SetAction([&context] { context.TryCancel(); });
  AnswerPrinter printer(options.request);
  const auto reader = stub->Generate(&context, options.request.request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) printer.Print(response);
  const grpc::Status status = reader->Finish();
  signals.SetAction([] {});
  if (status.ok()) return 0;
  const int code = Complain(options.client, status);
  return signals.signal() != 0 ? 128 + signals.signal() : code;
}

}  // namespace

void AddClientGenerateCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("generate", "Ask the server; Ctrl-C cancels");
  const auto options = std::make_shared<ClientGenerateOptions>();
  AddClientOptions(*command, options->client);
  AddRequestOptions(*command, options->request);
  command->callback([options, exit_code] { *exit_code = RunClientGenerate(*options); });
}

}  // namespace intermix
