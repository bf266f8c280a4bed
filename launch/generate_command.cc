// `intermix generate`: one answer from the engine itself, without a server; also under mpirun.
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "launch/commands.h"
#include "launch/job.h"
#include "launch/request_options.h"
#include "runtime/rpc/answer_builder.h"
#include "runtime/rpc/front.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

struct GenerateOptions {
  JobOptions job;
  RequestOptions request;
};

struct Submitted {
  Engine::Streams streams;  // one for each answer
  GenerateRequest request;
};

absl::StatusOr<Submitted> Submit(const v1::GenerateRequest& proto, Job& job, Engine& engine) {
  absl::StatusOr<GenerateRequest> request = FromProto(proto, job.front());
  if (!request.ok()) return request.status();
  request->id = "generate";
  const absl::StatusOr<int32_t> num_choices = NumChoices(proto);
  if (!num_choices.ok()) return num_choices.status();
  absl::StatusOr<Engine::Streams> streams = engine.SubmitChoices(*request, *num_choices);
  if (!streams.ok()) return streams.status();
  return Submitted{*std::move(streams), *std::move(request)};
}

// Prints answer `index` to its end; returns how it ended.
absl::Status PrintAnswer(const Submitted& submitted, uint32_t index, const Tokenizer& tokenizer,
                         AnswerPrinter& printer) {
  RequestStream& stream = *submitted.streams[index];
  AnswerBuilder answer(tokenizer, submitted.request);
  for (;;) {
    const AnswerPart part = answer.Take(stream.Next());
    if (part.has_content()) printer.Print(DeltaToProto(part, index));
    if (!part.delta.finished) continue;
    stream.Cancel();  // a stop string ends it before the engine does
    if (!part.delta.status.ok()) return part.delta.status;
    printer.Print(CompletionToProto(part.delta, submitted.request.sampling.seed, index));
    return absl::OkStatus();
  }
}

// Rank 0: submits the request and steps the engine until it is answered.
absl::Status Answer(const GenerateOptions& options, Job& job) {
  EngineOptions engine_options = options.job.engine;
  engine_options.max_unread = std::numeric_limits<int32_t>::max();  // one answer is read at a time
  engine_options.num_threads = job.num_threads();
  Engine engine(engine_options, job.rank().runner());
  const absl::StatusOr<Submitted> submitted = Submit(options.request.request, job, engine);
  if (!submitted.ok()) {
    job.rank().runner().Stop();  // the other ranks wait for a batch
    return submitted.status();
  }
  job.signals().SetAction([&submitted] {
    for (const auto& stream : submitted->streams) stream->Cancel();
  });
  absl::Status end;
  std::thread reader([&] {
    AnswerPrinter printer(options.request);
    for (uint32_t i = 0; i < submitted->streams.size() && end.ok(); ++i) {
      end = PrintAnswer(*submitted, i, job.tokenizer(), printer);
    }
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
  const absl::Status prompt = job.first() ? FinishRequest(options.request) : absl::OkStatus();
  if (absl::Status s = job.Check(options.job, prompt); !s.ok()) return job.Refuse(s);
  if (absl::Status s = job.Load(); !s.ok()) return job.Refuse(s);
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
