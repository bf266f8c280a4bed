// Chat: a conversation with a server, line by line from stdin, answers to stdout as they come. Also
// with a pipe for stdin: then there are no prompts, and a failure ends it. One thread.
#pragma once

#include <string>

#include "intermix/v1/inference.grpc.pb.h"
#include "launch/client.h"
#include "launch/interrupts.h"

namespace intermix {

struct ChatOptions {
  ClientOptions client;
  std::string system;           // the system's message; may be empty
  v1::SamplingParams sampling;  // of every answer
};

class Chat {
 public:
  // Both outlive it.
  Chat(const ChatOptions& options, Interrupts& interrupts);

  // Until /quit or the end of stdin; the exit code.
  int Run();

 private:
  // The user's next message; a line that ends with \ goes on in the next one. False: stdin ended.
  bool ReadMessage(std::string& text);
  // Whether `line` is a command: one word that begins with a slash. Obeys it.
  bool Obey(const std::string& line);
  void Reset();
  // Adds the question and its answer to the conversation; whether it was answered.
  bool Ask(const std::string& question);
  void Explain(const v1::Completion& completion) const;

  const ChatOptions& options_;
  Interrupts& interrupts_;
  const bool terminal_;
  const std::unique_ptr<v1::Inference::Stub> stub_;
  v1::GenerateRequest request_;  // holds the conversation
  bool leaving_ = false;
};

}  // namespace intermix
