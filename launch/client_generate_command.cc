// `intermix client generate`: asks a server and prints the answer as it comes; or, with --file,
// asks many questions at once. Ctrl-C cancels.
#include <memory>

#include "intermix/v1/inference.grpc.pb.h"
#include "launch/batch_client.h"
#include "launch/client.h"
#include "launch/commands.h"
#include "launch/logging.h"
#include "launch/request_options.h"
#include "launch/signal_watcher.h"
#include "runtime/rpc/request_record.h"

namespace intermix {
namespace {

struct ClientGenerateOptions {
  ClientOptions client;
  std::string traceparent;
  RequestOptions request;
  BatchOptions batch;
};

int RunClientGenerate(ClientGenerateOptions& options) {
  if (!SetUpLogging("warning", -1).ok()) return 1;
  if (!options.batch.file.empty()) {
    options.batch.client = options.client;
    return RunBatch(options.batch, options.request);
  }
  SignalWatcher signals;
  signals.Start(absl::Seconds(5));
  if (absl::Status ready = FinishRequest(options.request); !ready.ok()) {
    std::fprintf(stderr, "intermix: %s\n", std::string(ready.message()).c_str());
    return 1;
  }
  const auto stub = v1::Inference::NewStub(Connect(options.client));
  grpc::ClientContext context;
  SetDeadline(options.client, context);
  if (!options.traceparent.empty()) context.AddMetadata("traceparent", options.traceparent);
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
  CLI::Option_group* prompt = AddRequestOptions(*command, options->request);
  CLI::Option* traceparent =
      command
          ->add_option("--traceparent", options->traceparent,
                       "Trace that the request belongs to, as W3C Trace Context writes it")
          ->check(
              [](const std::string& text) {
                return ValidTraceparent(text) == text ? std::string() : "not a traceparent";
              },
              "TRACEPARENT");
  CLI::Option* file = prompt->add_option(
      "--file", options->batch.file,
      "Many prompts: one JSON string or object of GenerateRequest's fields per line; - is stdin");
  file->excludes(command->get_option("--stream-json"), traceparent);
  command
      ->add_option("--output", options->batch.output,
                   "Write the answers to --file here, one JSON object per line (default: stdout)")
      ->needs(file);
  command->add_option("--concurrency", options->batch.concurrency, "Requests of --file at a time")
      ->check(CLI::Range(1, 1000))
      ->needs(file)
      ->capture_default_str();
  command->callback([options, exit_code] { *exit_code = RunClientGenerate(*options); });
}

}  // namespace intermix
