// `intermix perplexity`: how well a model, quantised as asked, predicts a text; on any number of
// ranks, with the same answer.
#include <atomic>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/number_checks.h"
#include "launch/perplexity.h"
#include "launch/progress_bar.h"
#include "nlohmann/json.hpp"
#include "runtime/rpc/front.h"
#include "runtime/tokenizer/utf8.h"

namespace intermix {
namespace {

struct CommandOptions {
  JobOptions job;
  std::string text_file;
  int32_t window = 512;
  bool json = false;
};

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read --text ", path));
  if (!IsValidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("--text ", path, " is not valid UTF-8"));
  }
  return text;
}

// The token that opens a window: BOS, also where the model's texts do not begin with it (ChatML's
// models), or the one that ends the text before.
int32_t OpeningToken(const ModelConfig& config, const Tokenizer& tokenizer) {
  const FrontModel front = FrontModel::Make(config, tokenizer);
  if (front.bos_token_id >= 0) return front.bos_token_id;
  if (config.bos_token_id >= 0) return config.bos_token_id;
  return front.eos_token_ids.empty() ? -1 : front.eos_token_ids.front();
}

// Rank 0.
absl::StatusOr<PerplexityResult> Measure(const CommandOptions& options, const std::string& text,
                                         Job& job) {
  const std::vector<int32_t> tokens = job.tokenizer().Encode(text);
  std::atomic<bool> cancelled{false};
  job.signals().SetAction([&cancelled] { cancelled = true; });
  ProgressBar bar("measuring perplexity", ProgressBar::Unit::kTokens);
  const absl::StatusOr<PerplexityResult> result =
      MeasurePerplexity({.bos_token_id = OpeningToken(job.rank().config(), job.tokenizer()),
                         .window = options.window,
                         .max_batch_tokens = options.job.engine.max_batch_tokens,
                         .progress = [&](int64_t done) { bar.Update(done, std::ssize(tokens)); },
                         .cancelled = &cancelled},
                        tokens, job.rank().runner());
  job.signals().SetAction([] {});
  job.rank().runner().Stop();
  return result;
}

void Print(const CommandOptions& options, const PerplexityResult& result, absl::Duration time,
           Job& job) {
  const double seconds = absl::ToDoubleSeconds(time);
  const std::string model = job.rank().model_description();
  if (options.json) {
    const nlohmann::json json = {{"perplexity", result.perplexity},
                                 {"tokens", result.tokens},
                                 {"window", options.window},
                                 {"model", model},
                                 {"ranks", job.size()},
                                 {"seconds", seconds}};
    std::printf("%s\n", json.dump().c_str());
    return;
  }
  std::printf("perplexity %.4f over %lld tokens (%s; windows of %d; %.0f tokens/s)\n",
              result.perplexity, static_cast<long long>(result.tokens), model.c_str(),
              options.window, static_cast<double>(result.tokens) / seconds);
}

int RunPerplexity(CommandOptions& options) {
  Job job;
  if (absl::Status s = job.Join(options.job); !s.ok()) return job.Refuse(s);
  absl::StatusOr<std::string> text = std::string();
  if (job.first()) text = ReadText(options.text_file);
  if (absl::Status s = job.Check(options.job, text.status()); !s.ok()) return job.Refuse(s);
  options.job.engine.max_batch_tokens =
      std::max(options.job.engine.max_batch_tokens, options.window);
  if (absl::Status s = job.Load(); !s.ok()) return job.Refuse(s);
  if (!job.first()) {
    job.signals().SetAction([] {});  // rank 0 ends the job
    job.rank().RunWorker();
    return 0;
  }
  const absl::Time start = absl::Now();
  const absl::StatusOr<PerplexityResult> result = Measure(options, *text, job);
  if (!result.ok()) return job.Refuse(result.status());
  Print(options, *result, absl::Now() - start, job);
  return 0;
}

}  // namespace

void AddPerplexityCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("perplexity", "How well a model predicts a text");
  const auto options = std::make_shared<CommandOptions>();
  options->job.log_level = "warning";
  options->job.engine.max_batch_tokens = 2048;
  AddJobOptions(*command, options->job);
  command->add_option("--text", options->text_file, "File of UTF-8 text")->required();
  command->add_option("--window", options->window, "Tokens scored after each BOS")
      ->check(kPositive)
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options, exit_code] { *exit_code = RunPerplexity(*options); });
}

}  // namespace intermix
