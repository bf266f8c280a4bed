#include "launch/chat.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>

namespace intermix {
namespace {

constexpr char kHelp[] =
    "  /help   this\n"
    "  /reset  forget the conversation\n"
    "  /quit   leave; so does Ctrl-D\n"
    "A line that ends with \\ goes on in the next one. Ctrl-C stops an answer; elsewhere it "
    "leaves.\n";

void AddMessage(v1::Chat& chat, const char* role, const std::string& content) {
  v1::ChatMessage* message = chat.add_messages();
  message->set_role(role);
  message->set_content(content);
}

void Show(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

Chat::Chat(const ChatOptions& options, Interrupts& interrupts)
    : options_(options),
      interrupts_(interrupts),
      terminal_(isatty(STDIN_FILENO) == 1),
      stub_(v1::Inference::NewStub(Connect(options.client))) {
  *request_.mutable_sampling() = options.sampling;
  Reset();
}

void Chat::Reset() {
  request_.mutable_chat()->clear_messages();
  if (!options_.system.empty()) AddMessage(*request_.mutable_chat(), "system", options_.system);
}

int Chat::Run() {
  if (terminal_) std::fprintf(stderr, "/help lists the commands.\n");
  std::string text;
  while (!leaving_ && ReadMessage(text)) {
    if (text.empty() || Obey(text)) continue;
    if (!Ask(text) && !terminal_) return 1;  // what follows would answer something else
  }
  return 0;
}

bool Chat::ReadMessage(std::string& text) {
  text.clear();
  std::string line;
  for (const char* prompt = "> ";; prompt = ". ") {
    if (terminal_) std::fputs(prompt, stderr);
    if (!std::getline(std::cin, line)) {
      if (terminal_) std::fputc('\n', stderr);
      return !text.empty();
    }
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.back() != '\\') break;
    line.back() = '\n';
    text += line;
  }
  text += line;
  return true;
}

bool Chat::Obey(const std::string& line) {
  if (line[0] != '/' || line.find_first_of(" \n") != std::string::npos) return false;
  if (line == "/quit" || line == "/exit") {
    leaving_ = true;
  } else if (line == "/reset") {
    Reset();
    if (terminal_) std::fprintf(stderr, "Forgotten.\n");
  } else if (line == "/help") {
    std::fputs(kHelp, stderr);
  } else {
    std::fprintf(stderr, "There is no command %s; /help lists them.\n", line.c_str());
  }
  return true;
}

bool Chat::Ask(const std::string& question) {
  v1::Chat& chat = *request_.mutable_chat();
  AddMessage(chat, "user", question);
  grpc::ClientContext context;
  SetDeadline(options_.client, context);
  interrupts_.Begin([&context] { context.TryCancel(); });
  const auto reader = stub_->Generate(&context, request_);
  std::string answer;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    answer += response.delta().text();
    Show(response.delta().text());
    if (response.has_completion()) Explain(response.completion());
  }
  const grpc::Status status = reader->Finish();
  const bool stopped = interrupts_.End();
  if (!answer.empty() || status.ok()) Show("\n");
  if (!status.ok() && !stopped) Complain(options_.client, status);
  if (!answer.empty()) {
    AddMessage(chat, "assistant", answer);
  } else {
    chat.mutable_messages()->RemoveLast();  // turns must alternate
  }
  return status.ok() || stopped;
}

void Chat::Explain(const v1::Completion& completion) const {
  if (completion.finish_reason() != v1::FINISH_REASON_LENGTH) return;
  std::fflush(stdout);
  if (completion.usage().completion_tokens() >= options_.sampling.max_tokens()) {
    std::fprintf(stderr, " [cut after %u tokens; --max-tokens allows more]",
                 completion.usage().completion_tokens());
  } else {
    std::fprintf(stderr, " [the model's context is full; /reset starts anew]");
  }
}

}  // namespace intermix
