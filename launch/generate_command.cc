// `intermix generate`: one answer from the engine itself, without a server; also under mpirun.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/agreement.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/request_options.h"
#include "runtime/rpc/front.h"
#include "runtime/rpc/proto_convert.h"
#include "runtime/tokenizer/detokenizer.h"

namespace intermix {
namespace {

struct GenerateOptions {
  JobOptions job;
  RequestOptions request;
};

// Prints the stream to its end; returns how it ended.
absl::Status PrintStream(RequestStream& stream, Detokenizer detokenizer, uint64_t seed,
                         AnswerPrinter& printer) {
  for (;;) {
    const TokenDelta delta = stream.Next();
    std::string text;
    for (int32_t token : delta.tokens) text += detokenizer.Add(token);
    if (delta.finished) text += detokenizer.Flush();
    if (!delta.tokens.empty() || !text.empty()) printer.Print(DeltaToProto(delta.tokens, text));
    if (!delta.finished) continue;
    if (delta.status.ok()) printer.Print(CompletionToProto(delta, seed));
    return delta.status;
  }
}

struct Submitted {
  std::shared_ptr<RequestStream> stream;
  uint64_t seed = 0;
  std::vector<int32_t> prompt;
};

absl::StatusOr<Submitted> Submit(const v1::GenerateRequest& proto, Job& job, Engine& engine) {
  absl::StatusOr<GenerateRequest> request =
      FromProto(proto, FrontModel::Make(job.rank().config(), job.tokenizer()));
  if (!request.ok()) return request.status();
  request->id = "generate";
  absl::StatusOr<std::shared_ptr<RequestStream>> stream = engine.Submit(*request);
  if (!stream.ok()) return stream.status();
  return Submitted{*stream, request->sampling.seed, request->prompt};
}

// Rank 0: submits the request and steps the engine until it is answered.
absl::Status Answer(const GenerateOptions& options, Job& job) {
  Engine engine(options.job.engine, job.rank().runner());
  const absl::StatusOr<Submitted> submitted = Submit(options.request.request, job, engine);
  if (!submitted.ok()) {
    job.rank().runner().Stop();  // the other ranks wait for a batch
    return submitted.status();
  }
  RequestStream& stream = *submitted->stream;
  job.signals().SetAction([&stream] { stream.Cancel(); });
  absl::Status end;
  std::thread reader([&] {
    AnswerPrinter printer(options.request.stream_json);
    end = PrintStream(stream, Detokenizer(job.tokenizer(), submitted->prompt), submitted->seed,
                      printer);
    engine.Shutdown();
  });
  engine.Run();
  job.signals().SetAction([] {});
  reader.join();
  return end;
}

int RunGenerate(GenerateOptions& options) {
  Job job;
  if (absl::Status s = job.Join(options.job); !s.ok()) return job.Refuse(s);
  const absl::Status prompt = job.first() ? ReadPromptFile(options.request) : absl::OkStatus();
  if (absl::Status s = AgreeOnStatus(job.world(), prompt); !s.ok()) return job.Refuse(s);
  if (absl::Status s = job.Load(options.job); !s.ok()) return job.Refuse(s);
  if (!job.first()) {
    job.signals().SetAction([] {});  // rank 0 ends the job
    job.rank().RunWorker();
    return 0;
  }
  if (absl::Status s = Answer(options, job); !s.ok()) return job.Refuse(s);
  return 0;
}

}  // namespace

void AddGenerateCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("generate", "Answer one prompt, without a server");
  const auto options = std::make_shared<GenerateOptions>();
  options->job.log_level = "warning";
  AddJobOptions(*command, options->job);
  AddRequestOptions(*command, options->request);
  command->callback([options, exit_code] { *exit_code = RunGenerate(*options); });
}

}  // namespace intermix
