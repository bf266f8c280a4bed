// StopMatcher: against a search of the whole text, however it is cut.
#include "runtime/tokenizer/stop_matcher.h"

#include <algorithm>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

TEST(StopMatcherTest, FindsAStopAcrossPartsAndLetsNoneOfItOut) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Add("the E", true), "the ");
  EXPECT_EQ(matcher.Add("N", true), "");
  EXPECT_EQ(matcher.Add("E", true), "EN") << "it was none; this may begin another";
  EXPECT_EQ(matcher.Add("ND and more", true), "");
  EXPECT_EQ(matcher.matched(), "END");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, GivesBackWhatTurnsOutToBeNone) {
  StopMatcher matcher({"abc"});
  EXPECT_EQ(matcher.Add("xab", true), "x");
  EXPECT_EQ(matcher.Flush(), "ab");
  EXPECT_FALSE(matcher.matched().has_value());
}

TEST(StopMatcherTest, TakesTheOneThatEndsFirstAndTheLongestOfThose) {
  StopMatcher first({"abcd", "bc"});
  EXPECT_EQ(first.Add("xabcd", true), "xa");
  EXPECT_EQ(first.matched(), "bc");
  StopMatcher longest({"cd", "abcd", "d"});
  EXPECT_EQ(longest.Add("xabcd", true), "x");
  EXPECT_EQ(longest.matched(), "abcd");
}

TEST(StopMatcherTest, PassesOverAStopThatEndsTooEarly) {
  StopMatcher matcher({"ab"});
  EXPECT_EQ(matcher.Add("xab", false), "xab");
  EXPECT_EQ(matcher.Add("a", false), "");
  EXPECT_EQ(matcher.Add("bab", true), "") << "the first part of it came early, its end did not";
  EXPECT_EQ(matcher.matched(), "ab");
}

TEST(StopMatcherTest, WithoutStopsEverythingGoesOutAtOnce) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Add("anything", true), "anything");
}

TEST(StopMatcherTest, CutsNeverMatter) {
  std::mt19937 random(11);
  const auto letters = [&](size_t most) {
    std::string text(1 + random() % most, ' ');
    for (char& c : text) c = static_cast<char>('a' + random() % 3);
    return text;
  };
  int found = 0;
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::string> stops(1 + random() % 3);
    std::generate(stops.begin(), stops.end(), [&] { return letters(6); });
    const std::string text = letters(40);
    // The oracle looks at every prefix of the text.
    std::string expected = text;
    std::string stop;
    for (size_t end = 1; end <= text.size() && stop.empty(); ++end) {
      for (const std::string& s : stops) {
        const bool here = end >= s.size() && text.compare(end - s.size(), s.size(), s) == 0;
        if (here && s.size() > stop.size()) stop = s;
      }
      if (!stop.empty()) expected = text.substr(0, end - stop.size());
    }
    found += !stop.empty();

    StopMatcher matcher(stops);
    std::string got;
    for (size_t at = 0; at < text.size() && !matcher.matched().has_value();) {
      const size_t size = std::min<size_t>(1 + random() % 7, text.size() - at);
      got += matcher.Add(text.substr(at, size), true);
      at += size;
    }
    got += matcher.Flush();
    ASSERT_EQ(got, expected) << "case " << i << " of " << text;
    ASSERT_EQ(matcher.matched().value_or(""), stop);
  }
  EXPECT_GT(found, 500);
  EXPECT_LT(found, 1990);
}

}  // namespace
}  // namespace intermix
