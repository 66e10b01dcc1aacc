"""The guides: every command of ours in them has a verb that there is, and flags that this verb takes."""
import os
import pathlib
import re
import shlex
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLIXARD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")) / "blixard"
PAGES = sorted([*ROOT.glob("docs/*-guide/**/*.md"), *ROOT.glob("docs/getting-started/**/*.md"), *ROOT.glob("docs/examples/**/*.md"),
                *ROOT.glob("examples/**/*.md"), ROOT / "README.md"])


def said(*words):
    return subprocess.run([BLIXARD, *words], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout


class Verbs:
    """As the manual page has them: name -> flags."""

    def __init__(self):
        commands, options = said("man").replace("\\-", "-").split(".SH COMMANDS")[1].split(".SH OPTIONS")
        everywhere = self.flags_of(options.split(".SH ")[0])
        self.all = {}
        for text in commands.split("\n.SS blixard ")[1:]:
            name = " ".join(re.match(r"((?:[a-z][a-z-]*(?: |$))+)", text.split("\n", 1)[0] + " ").group(1).split())
            self.all[name] = self.flags_of(text) | everywhere
        for name in ("server", "dev"):
            self.all[name] |= set(re.findall(r"--[a-z][a-z0-9-]*", said(name, "--help")))

    @staticmethod
    def flags_of(text):
        return set(re.findall(r"\\fB(--?[a-zA-Z][a-z0-9-]*)\\fR", text)) | {"--help", "-h"}

    def find(self, words):
        """The longest that the words begin with; a noun alone is good enough for prose: None."""
        for count in range(min(len(words), 3), 0, -1):
            name = " ".join(words[:count])
            if name in self.all:
                return name
            if any(verb.startswith(name + " ") for verb in self.all) and count == len(words):
                return None
        raise LookupError(f"there is no verb {' '.join(words[:3])}")

    def check(self, words):
        """Raises LookupError for what cannot be."""
        if not words or words[0] in ("man", "completion") or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            return  # `blixard NOUN VERB`, `blixard --help`
        verb = self.find([word for word in words if not word.startswith("-")])
        for word in words:
            if word == "--":
                return
            flag = word.split("=")[0]
            if verb and re.fullmatch(r"--[a-z][a-z0-9-]*|-[a-zA-Z]", flag) and flag not in self.all[verb]:
                raise LookupError(f"{verb} takes no {flag}")


def cut(text):
    """The words of a command, as far as it goes."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = []
    try:
        for word in lexer:
            if word in ("...", "..", "…") or set(word) <= set("|&;<>()"):
                break
            words.append(word)
    except ValueError:
        pass  # a quotation that goes on elsewhere
    return words


def commands(text):
    """(line, words behind `blixard`) of what stands in a page's code."""
    for block in re.finditer(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S):
        body = re.sub(r"\\\n\s*", " ", block.group(1))
        for match in re.finditer(r"(?:^|[|&;(]|\$\(|sudo|\bssh \S+) *(?:\$ )?blixard (.*)", body, re.M):
            yield text.count("\n", 0, block.start()) + 2, cut(match.group(1))
    for line, code in in_line(text):
        if code.startswith("blixard "):
            yield line, cut(code)[1:]


def in_line(text):
    """(line, code) of what stands between backticks in sentences."""
    text = re.sub(r"^```.*?^```", lambda block: "\n" * block.group(0).count("\n"), text, flags=re.M | re.S)
    for match in re.finditer(r"(?<!`)`([^`]+)`", text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1).replace("\n", " ").removeprefix("$ ")


class Guides(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.verbs = Verbs()

    def test_each_command_has_a_verb_and_flags_that_there_are(self):
        wrong, count = [], 0
        for page in PAGES:
            text = page.read_text()
            for line, words in commands(text):
                count += 1
                try:
                    self.verbs.check(words)
                except LookupError as problem:
                    wrong.append(f"{page.relative_to(ROOT)}:{line}: blixard {' '.join(words)}: {problem}")
        self.assertGreater(count, 250, "they are found at all")
        self.assertEqual(wrong, [])

    def test_verbs_and_flags_in_sentences_are_there(self):
        wrong = []
        some = set().union(*self.verbs.all.values())
        for page in PAGES:
            for line, code in in_line(page.read_text()):
                words = cut(code)
                noun = " ".join(words[:2])
                try:
                    is_flag = re.fullmatch(r"--[a-z][a-z0-9-]*", words[0] if words else "") and "=" not in code
                    if is_flag and "developer-guide" not in page.parts and words[0] not in some:  # its are of tools
                        raise LookupError("no verb has that flag")
                    if noun in self.verbs.all or " ".join(words[:3]) in self.verbs.all:
                        self.verbs.check(words)
                except LookupError as problem:
                    wrong.append(f"{page.relative_to(ROOT)}:{line}: {code}: {problem}")
        self.assertEqual(wrong, [])

    def test_the_page_of_the_command_line_names_the_verbs_that_there_are(self):
        rows = re.findall(r"^\| (`[^|]*`) \|", (ROOT / "docs/user-guide/cli.md").read_text(), re.M)
        named = set()
        for row in rows:
            noun = ""
            for words in re.findall(r"`([^`]+)`", row):
                words = words.split(" -")[0]
                name = f"{noun} {words}" if f"{noun} {words}" in self.verbs.all else words
                self.assertTrue(name in self.verbs.all, f"{words} of {row}")
                named.add(name)
                noun = name.rpartition(" ")[0]
        self.assertEqual(set(self.verbs.all) - named, set())


if __name__ == "__main__":
    unittest.main()
