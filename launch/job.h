// Job: this process as one rank of a job that runs a model; what `serve`, `generate` and
// `perplexity` have in common.
#pragma once

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "comm/mpi_communicator.h"
#include "launch/quant_options.h"
#include "launch/signal_watcher.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/rank.h"
#include "runtime/rpc/front.h"
#include "runtime/tokenizer/tokenizer.h"

namespace intermix {

struct JobOptions {
  RankOptions rank;
  QuantOptions quant;  // for a checkpoint that is not quantised yet
  EngineOptions engine;
  std::string log_level = "info";
  std::string log_format = "text";
};

// Which of its host's ranks this one is, and what the default layout makes of that.
void PlaceRank(const MpiSession& session, RankOptions& rank);

// --tp and --ep; `rank` outlives the parse.
void AddLayoutOptions(CLI::App& command, RankOptions& rank);

// --model, --tp, --ep, --device, --threads, ...; `options` outlives the parse.
void AddJobOptions(CLI::App& command, JobOptions& options);

// Construct on every rank, before any thread is started.
class Job {
 public:
  Job();

  // Joins the other ranks and sets up logging. Collective, like all that follows.
  absl::Status Join(const JobOptions& options);

  // Whether the job can run, before anything is loaded (preflight.h): one status on all ranks, with
  // everything that is wrong on any, `own` of this rank included. Rank 0 logs warnings.
  absl::Status Check(const JobOptions& options, const absl::Status& own = absl::OkStatus());

  // After Check was OK: loads this rank's shard. Same status on all ranks.
  absl::Status Load();

  int index() const { return index_; }
  int size() const { return size_; }
  int log_rank() const { return size_ > 1 ? index_ : -1; }  // as SetUpLogging takes it
  bool first() const { return index_ == 0; }
  int num_threads() const { return rank_options_.num_threads; }  // after Check; 0: as CPUs allow
  bool one_host() const { return session_->local_size() == size_; }

  SignalWatcher& signals() { return signals_; }
  Communicator& world() { return rank_ != nullptr ? rank_->world() : *world_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }  // after Check
  // After Load.
  Rank& rank() { return *rank_; }
  FrontModel front() const {
    return FrontModel::Make(rank_->config(), *tokenizer_, FindChatTemplate(model_directory_));
  }
  std::string model_name() const;  // the model directory's last component

  // Says why the job does not run, once for all ranks; returns the exit code.
  int Refuse(const absl::Status& status) const;

 private:
  SignalWatcher signals_;  // first: it must block signals before MPI starts threads
  std::unique_ptr<MpiSession> session_;
  std::unique_ptr<Communicator> world_;  // until Load hands it to the rank
  int index_ = 0;
  int size_ = 1;
  std::string model_directory_;
  RankOptions rank_options_;  // since Check: complete
  std::unique_ptr<Rank> rank_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace intermix
