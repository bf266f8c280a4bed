// `intermix client chat` against two ranks, with a pipe and with a terminal for its stdin.
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/served_model.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

// tiny-mixtral with Mixtral's chat template, which it does not know how to follow.
class ChattyModel {
 public:
  ChattyModel() {
    CopyModel("tiny-mixtral", directory_ / "tiny-mixtral");
    WriteFile(path() + "/tokenizer_config.json",
              R"({"chat_template": "{{ bos_token }}[INST] {{ content }} [/INST]"})");
  }
  std::string path() const { return directory_ / "tiny-mixtral"; }

 private:
  TempDirectory directory_;
};

bool WaitUntil(const std::function<bool()>& done) {
  for (int i = 0; i < 24000; ++i) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(ClientChatTest, FromAPipeItRemembersAndResets) {
  const ChattyModel model;
  const Served served({}, model.path());
  const TempDirectory directory;
  const auto chat = [&](const std::string& input) {
    WriteFile(directory / "in", input);
    BackgroundProcess process(served.ClientCommand({"chat", "--max-tokens", "8"}),
                              directory / "in");
    EXPECT_EQ(process.Wait(), 0) << process.err();
    return std::pair(process.out(), process.err());
  };
  const ProgramResult once =
      served.Client({"generate", "--chat", "--prompt", "Who was Moses?", "--max-tokens", "8"});
  const std::string first = chat("Who was Moses?\n").first;
  EXPECT_EQ(first, once.out);
  const std::string twice = chat("Who was Moses?\nWho was Moses?\n").first;
  EXPECT_EQ(twice.substr(0, first.size()), first);
  EXPECT_NE(twice, first + first) << "the second question comes with the first one's answer";
  EXPECT_EQ(chat("Who was Moses?\n/reset\n\nWho was Moses?").first, first + first);
  EXPECT_EQ(chat("Who was Moses?\n/quit\nWho was Moses?\n").first, first);
  EXPECT_EQ(
      chat("Who was \\\nMoses?\n").first,
      served.Client({"generate", "--chat", "--prompt", "Who was \nMoses?", "--max-tokens", "8"})
          .out);
  const auto [nothing, help] = chat("/help\n/dance\n");
  EXPECT_EQ(nothing, "");
  EXPECT_THAT(help, HasSubstr("/reset"));
  EXPECT_THAT(help, HasSubstr("There is no command /dance"));
  EXPECT_THAT(chat("Who was Moses?\n").second, HasSubstr("[cut after 8 tokens"));
}

TEST(ClientChatTest, FromAPipeAFailureEndsIt) {
  const Served served;  // no chat template
  const TempDirectory directory;
  WriteFile(directory / "in", "Who?\nWho?\n");
  BackgroundProcess chat(served.ClientCommand({"chat"}), directory / "in");
  EXPECT_EQ(chat.Wait(), 1);
  EXPECT_EQ(chat.out(), "");
  const std::string err = chat.err();
  EXPECT_THAT(err, HasSubstr("intermix: INVALID_ARGUMENT: chat"));
  EXPECT_EQ(err.find("INVALID_ARGUMENT"), err.rfind("INVALID_ARGUMENT")) << "once";
}

// A terminal whose keyboard is the test.
class Terminal {
 public:
  Terminal() : keyboard_(posix_openpt(O_RDWR | O_NOCTTY)) {
    EXPECT_EQ(grantpt(keyboard_), 0);
    EXPECT_EQ(unlockpt(keyboard_), 0);
    path_ = ptsname(keyboard_);
  }
  ~Terminal() { close(keyboard_); }
  const std::string& path() const { return path_; }
  void Type(const std::string& text) {
    EXPECT_EQ(write(keyboard_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

 private:
  int keyboard_;
  std::string path_;
};

TEST(ClientChatTest, AtATerminalCtrlCStopsTheAnswerAndThenTheChat) {
  const ChattyModel model;
  Served served = Served::Endless({}, model.path());
  Terminal terminal;
  BackgroundProcess chat(
      served.ClientCommand({"chat", "--max-tokens", std::to_string(kEndless), "--ignore-eos"}),
      terminal.path());
  terminal.Type("Who was Moses?\n");
  ASSERT_TRUE(served.Running(1));
  ASSERT_TRUE(WaitUntil([&] { return !chat.out().empty(); }));
  kill(chat.pid(), SIGINT);
  EXPECT_TRUE(served.Running(0)) << "the answer is cancelled";
  terminal.Type("/help\n");
  EXPECT_TRUE(WaitUntil([&] { return chat.err().find("/quit") != std::string::npos; }))
      << "and the chat goes on";
  EXPECT_THAT(chat.err(), HasSubstr("> "));
  kill(chat.pid(), SIGINT);
  EXPECT_EQ(chat.Wait(), 128 + SIGINT);
}

TEST(ClientChatTest, AtATerminalCtrlDLeaves) {
  const ChattyModel model;
  Served served({}, model.path());
  Terminal terminal;
  BackgroundProcess chat(served.ClientCommand({"chat"}), terminal.path());
  terminal.Type("\x04");  // Ctrl-D
  EXPECT_EQ(chat.Wait(), 0) << chat.err();
}

}  // namespace
}  // namespace intermix
