//! Documents have lines of at most 120 columns and sentences of at most 30 words.
//!
//! A heading, a list item and a cell of a table are counted alone. Fenced code is skipped, inline code is one
//! word, a link counts by its text. Chinese has no spaces between its words: each of its characters counts as half
//! a word.

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS_MAX: usize = 120;
const WORDS_MAX: usize = 30;
/// What a word counts, in characters of Chinese: most Chinese words have two.
const WORD: usize = 2;

/// Documents at the root; each Markdown file below docs/ counts as well.
const ROOT: [&str; 5] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
];

/// The full stop of an abbreviation ends no sentence.
const ABBREVIATIONS: [&str; 5] = ["e.g.", "i.e.", "etc.", "vs.", "cf."];

fn check(path: &str, text: &str) -> Vec<String> {
    let mut reader = Reader {
        path,
        broken: Vec::new(),
        block: None,
        fence: None,
    };
    for (index, line) in text.lines().enumerate() {
        reader.line(index + 1, line);
    }
    reader.end_block();
    reader.broken
}

struct Reader<'a> {
    path: &'a str,
    broken: Vec<String>,
    /// The lines of a paragraph, an item or a cell, with the number of the first.
    block: Option<(usize, String)>,
    /// The mark that closes the code block around a line.
    fence: Option<&'static str>,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, line: &str) {
        let trimmed = line.trim_start().trim_start_matches("> ");
        if let Some(fence) = self.fence {
            if trimmed.starts_with(fence) {
                self.fence = None;
            }
            return;
        }
        if let Some(fence) = ["```", "~~~"]
            .into_iter()
            .find(|mark| trimmed.starts_with(mark))
        {
            self.end_block();
            self.fence = Some(fence);
            return;
        }
        if trimmed.starts_with('|') {
            self.end_block();
            for cell in cells(trimmed) {
                self.block = Some((number, cell));
                self.end_block();
            }
            return;
        }
        let item = item(trimmed);
        let columns = line.chars().count();
        if columns > COLUMNS_MAX && !is_link(item.unwrap_or(trimmed)) {
            let path = self.path;
            self.broken.push(format!(
                "{path}:{number}: columns: {columns}, the limit is {COLUMNS_MAX}"
            ));
        }
        if trimmed.is_empty() || trimmed.starts_with('#') || item.is_some() {
            self.end_block();
        }
        let text = item.unwrap_or(trimmed);
        match &mut self.block {
            Some((_, block)) => {
                block.push('\n');
                block.push_str(text);
            }
            None => self.block = Some((number, text.to_owned())),
        }
        if trimmed.starts_with('#') {
            self.end_block();
        }
    }

    /// Counts the words of each sentence.
    fn end_block(&mut self) {
        let Some((first, text)) = self.block.take() else {
            return;
        };
        let mut sentence: Vec<(usize, String)> = Vec::new();
        for (index, line) in plain(&text).lines().enumerate() {
            for word in line.split_whitespace().flat_map(words_of) {
                if word.chars().any(char::is_alphanumeric) {
                    sentence.push((first + index, word.to_owned()));
                }
                if ends_sentence(word) {
                    self.measure(&sentence);
                    sentence.clear();
                }
            }
        }
        self.measure(&sentence);
    }

    fn measure(&mut self, sentence: &[(usize, String)]) {
        let size: usize = sentence.iter().map(|(_, word)| size(word)).sum();
        if size > WORDS_MAX * WORD {
            let count = size.div_ceil(WORD);
            let begin: Vec<&str> = sentence
                .iter()
                .take(6)
                .map(|(_, word)| word.as_str())
                .collect();
            self.broken.push(format!(
                "{}:{}: sentence: {count} words, the limit is {WORDS_MAX}: {} …",
                self.path,
                sentence[0].0,
                begin.join(" ")
            ));
        }
    }
}

fn ends_sentence(word: &str) -> bool {
    let word = word.trim_end_matches(['*', '_', ')', '）', '（', '"', '”', '“', '\'', '’']);
    word.ends_with(['.', '!', '?', '。', '！', '？'])
        && !ABBREVIATIONS.contains(&word.trim_start_matches('('))
}

fn is_chinese(letter: char) -> bool {
    matches!(letter, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// What a word of `words_of` counts.
fn size(word: &str) -> usize {
    if word.contains(is_chinese) { 1 } else { WORD }
}

/// The words of a text without spaces: each Chinese character, and what stands between two of them. Marks belong to
/// what is before them.
fn words_of(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut begin = 0;
    let mut is_chinese_word = false;
    for (at, letter) in text.char_indices() {
        let begins = is_chinese(letter) || is_chinese_word && letter.is_alphanumeric();
        if begins && at > begin {
            words.push(&text[begin..at]);
            begin = at;
        }
        if begins {
            is_chinese_word = is_chinese(letter);
        }
    }
    words.push(&text[begin..]);
    words
}

/// The cells of a row; a bar in code or after a backslash does not separate cells.
fn cells(row: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let (mut is_code, mut is_escaped) = (false, false);
    for letter in row.chars() {
        is_code ^= letter == '`';
        match cells.last_mut() {
            Some(cell) if letter != '|' || is_code || is_escaped => cell.push(letter),
            _ => cells.push(String::new()),
        }
        is_escaped = letter == '\\';
    }
    cells
}

/// The text of a list item.
fn item(line: &str) -> Option<&str> {
    let bullet = ["- ", "* ", "+ "]
        .iter()
        .find_map(|mark| line.strip_prefix(mark));
    let digits = line.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let numbered = (digits.len() < line.len()).then(|| digits.strip_prefix(". "));
    bullet.or(numbered.flatten())
}

/// Whether a line is nothing but a link, an image or the address of one.
fn is_link(line: &str) -> bool {
    let line = line.trim().trim_end_matches(['.', ',', ';']);
    let begins = ["[", "![", "<http", "http"]
        .iter()
        .any(|mark| line.starts_with(mark));
    let has_address = line.contains("](") || line.contains("]: ") || line.contains("http");
    begins && has_address && !plain_tail(line).contains(' ')
}

/// The rest of a line after the text of its link.
fn plain_tail(line: &str) -> &str {
    let tail = line.split_once("](").or_else(|| line.split_once("]: "));
    tail.map_or(line, |(_, tail)| tail)
}

/// The text without markup, line by line: code becomes one word, a link its text.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let skipped = match letter {
            '`' => {
                let ticks = rest.len() - rest.trim_start_matches('`').len();
                let end = rest[ticks..].find(&rest[..ticks]);
                end.map(|end| {
                    out.push_str("code");
                    2 * ticks + end
                })
            }
            ']' if rest.starts_with("](") => rest.find(')').map(|end| end + 1),
            ']' if rest.starts_with("][") => rest[1..].find(']').map(|end| end + 2),
            '<' if rest[1..]
                .starts_with(|next: char| next.is_alphabetic() || "/!".contains(next)) =>
            {
                let is_address = rest.starts_with("<http");
                out.push_str(if is_address { "link" } else { "" });
                rest.find('>').map(|end| end + 1)
            }
            '[' | ']' => Some(1),
            '*' if rest.starts_with("**") => Some(2),
            _ => None,
        };
        let (skipped, is_shown) =
            skipped.map_or((letter.len_utf8(), true), |skipped| (skipped, false));
        if is_shown {
            out.push(letter);
        } else {
            let ends = rest[..skipped].matches('\n');
            out.extend(ends.map(|_| '\n'));
        }
        rest = &rest[skipped..];
    }
    out
}

/// Every document by its path from the root, with its text.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = ROOT.iter().map(|name| root.join(name)).collect();
    paths.retain(|path| path.exists());
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.iter().map(read).collect()
}

#[test]
fn a_document_has_short_lines_and_sentences() {
    let documents = documents();
    assert!(documents.len() > 5, "too few documents were found");
    let broken = documents.iter().flat_map(|(path, text)| check(path, text));
    super::assert_kept(&broken.collect::<Vec<_>>());
}

/// `count` words, eight a line.
fn words(count: usize) -> String {
    let words: Vec<String> = (1..=count).map(|n| format!("w{n}")).collect();
    let lines: Vec<String> = words.chunks(8).map(|line| line.join(" ")).collect();
    lines.join("\n")
}

#[track_caller]
fn reports(text: &str, wanted: &[&str]) {
    let found = check("a.md", text);
    let short = |line: &String| line.split(", ").next().unwrap().to_owned();
    let found: Vec<String> = found.iter().map(short).collect();
    assert_eq!(found, wanted, "{text}");
}

#[test]
fn a_sentence_of_more_words_than_thirty_is_reported_with_its_line() {
    reports(&words(30), &[]);
    reports(&format!("{}.\n{}.", words(30), words(30)), &[]);
    reports(
        &format!("Short one.\n{}. End.", words(31)),
        &["a.md:2: sentence: 31 words"],
    );
    reports(
        &format!("{} e.g. {}", words(20), words(11)),
        &["a.md:1: sentence: 32 words"],
    );
    reports(&format!("# {}\n{}", words(8), words(30)), &[]);
    reports(
        &format!("Text:\n- {}\n- {}\n  and on", words(30), words(30)),
        &["a.md:6: sentence: 32 words"],
    );
    let row = words(30).replace('\n', " ");
    reports(
        &format!("| {row} | {row} |\n| `a | b` | {row} x |"),
        &["a.md:2: sentence: 31 words"],
    );
}

#[test]
fn code_counts_once_and_a_link_by_its_text() {
    reports(&format!("{} `one two three`", words(29)), &[]);
    reports(&format!("{} ``a ` b``", words(29)), &[]);
    reports(&format!("{} [a](b c d e)", words(29)), &[]);
    reports(
        &format!("{} [a b](c)", words(29)),
        &["a.md:1: sentence: 31 words"],
    );
    reports(&format!("{} · → … **b**", words(29)), &[]);
    reports(&format!("```lua\n{}\n```\n", words(99)), &[]);
    reports(
        &format!("`{}\n`\n{}", words(9), words(31)),
        &["a.md:1: sentence: 32 words"],
    );
}

#[test]
fn a_line_of_more_columns_is_reported_unless_it_is_a_link_or_a_row() {
    let long = "x".repeat(121);
    reports(&long, &["a.md:1: columns: 121"]);
    reports(&format!("- a {long}"), &["a.md:1: columns: 125"]);
    reports(
        &format!("| {long} |\n\n[a b](http://{long})\n\n[a]: http://{long}\n\n- ![a]({long})"),
        &[],
    );
    reports(&format!("```\n{long}\n```"), &[]);
}

#[test]
fn a_character_of_chinese_counts_as_half_a_word() {
    reports(&"字".repeat(60), &[]);
    reports(
        &format!("{}。\n{}！好", "字".repeat(60), "字".repeat(60)),
        &[],
    );
    reports(
        &format!("{}，好。", "字".repeat(60)),
        &["a.md:1: sentence: 31 words"],
    );
    reports(
        &format!("好。\n{}，\n{}。", "字".repeat(30), "字".repeat(32)),
        &["a.md:2: sentence: 31 words"],
    );
    // Code, numbers and words of another script count as one word each, with and without spaces around them.
    let mixed = format!("{}用 `a b` 和Kafka 4.1的", "字".repeat(48));
    reports(&format!("{mixed}消息吧。"), &[]);
    reports(
        &format!("{mixed}消息的话。"),
        &["a.md:1: sentence: 31 words"],
    );
    let row = format!("| {} | {} |", "字".repeat(60), "字".repeat(61));
    reports(&row, &["a.md:1: sentence: 31 words"]);
}

#[test]
fn a_line_of_chinese_is_measured_in_characters() {
    let line = "字好。".repeat(40);
    reports(&line, &[]);
    reports(&format!("{line}好"), &["a.md:1: columns: 121"]);
}
