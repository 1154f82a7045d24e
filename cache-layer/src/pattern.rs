//! Patterns of readable keys, in the syntax of Redis: this process selects the same keys by a pattern as a server does.

use std::fmt;

/// A glob: `*` any run of bytes, `?` any byte, `[abc]`, `[a-z]` and `[^a]` one byte of a class, `\` the next byte itself. If it
/// names `https`, it also matches what the same pattern with `http` matches: layers keep the responses of both there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: String,
    steps: Vec<Step>,
    under_http: Option<Vec<Step>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Run,
    Any,
    Byte(u8),
    Class { negated: bool, ranges: Vec<(i8, i8)> },
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        let under_http = text.split_once("://").and_then(|(before, after)| {
            let space = before.strip_suffix("https")?;
            Some(steps(&format!("{space}http://{after}")))
        });
        Self { text: text.to_owned(), steps: steps(text), under_http }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        match_steps(&self.steps, text) || self.under_http.as_ref().is_some_and(|steps| match_steps(steps, text))
    }

    /// The bytes with which every match begins, at most `cap` of them.
    #[cfg(feature = "redis")]
    pub(crate) fn literal_prefix(&self, cap: usize) -> Vec<u8> {
        let literal = |steps: &[Step]| -> Vec<u8> {
            let bytes = steps.iter().map_while(|step| match step {
                Step::Byte(byte) => Some(*byte),
                _ => None,
            });
            bytes.take(cap).collect()
        };
        let mut common = literal(&self.steps);
        if let Some(http) = self.under_http.as_deref().map(literal) {
            let same = common.iter().zip(&http).take_while(|(one, other)| one == other).count();
            common.truncate(same);
        }
        common
    }
}

impl Step {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Run => false,
            Self::Any => true,
            Self::Byte(wanted) => *wanted == byte,
            Self::Class { negated, ranges } => {
                // The server compares signed bytes.
                let byte = byte as i8;
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&byte)) != *negated
            }
        }
    }
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        steps.push(match (byte, tail.split_first()) {
            (b'*', _) => Step::Run,
            (b'?', _) => Step::Any,
            (b'[', _) => class(&mut rest),
            (b'\\', Some((&escaped, tail))) => {
                rest = tail;
                Step::Byte(escaped)
            }
            _ => Step::Byte(byte),
        });
    }
    steps
}

fn match_steps(steps: &[Step], text: &[u8]) -> bool {
    let (mut step, mut at) = (0, 0);
    // The last run, and the position at which the rest was last tried: every other step takes exactly one byte, so that no
    // earlier run has to be tried again.
    let mut last_run = None;
    while at < text.len() {
        match steps.get(step) {
            Some(Step::Run) => {
                step += 1;
                last_run = Some((step, at));
                continue;
            }
            Some(one) if one.takes(text[at]) => {
                (step, at) = (step + 1, at + 1);
                continue;
            }
            _ => {}
        }
        let Some((after_run, tried)) = last_run else { return false };
        (step, at) = (after_run, tried + 1);
        last_run = Some((after_run, at));
    }
    steps[step..].iter().all(|step| *step == Step::Run)
}

/// The class that begins at `rest`, just after its bracket. A class that is not closed ends with the pattern.
fn class(rest: &mut &[u8]) -> Step {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        match **rest {
            [] => break,
            [b'\\', byte, ref tail @ ..] => {
                ranges.push((byte as i8, byte as i8));
                *rest = tail;
            }
            [b']', ref tail @ ..] => {
                *rest = tail;
                break;
            }
            [first, b'-', last, ref tail @ ..] => {
                let (first, last) = (first as i8, last as i8);
                ranges.push((first.min(last), first.max(last)));
                *rest = tail;
            }
            [byte, ref tail @ ..] => {
                ranges.push((byte as i8, byte as i8));
                *rest = tail;
            }
        }
    }
    Step::Class { negated, ranges }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).matches(text.as_bytes())
    }

    #[test]
    fn each_sign_means_what_it_means_to_redis() {
        for (pattern, text) in [
            ("", ""),
            ("*", "anything"),
            ("products:list:*", "products:list:"),
            ("*:list:*", "a:list:b:list:c"),
            ("h?llo", "hallo"),
            ("h[ae]llo", "hello"),
            ("h[^e]llo", "hallo"),
            ("h[c-a]llo", "hbllo"),
            ("a\\*b", "a*b"),
            ("[\\]]", "]"),
            ("[ab", "b"),
            ("a[^", "ax"),
            ("a\\", "a\\"),
            ("a**b*", "ab"),
            ("https://shop/*", "https://shop/a"),
            ("https://shop/*", "http://shop/a"),
            ("site:https://shop/*", "site:http://shop/a"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("https://shop/*", "http://other/a"),
            ("http://shop/*", "https://shop/a"),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("a\\*b", "axb"),
            ("*a", "ab"),
            ("A", "a"),
            ("[", "["),
            ("*x*y", "xyz"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn many_runs_take_no_time() {
        let pattern = "*a".repeat(500);
        assert!(!matches(&pattern, &"a".repeat(499)));
        assert!(!matches(&format!("{pattern}b"), &"a".repeat(5_000)));
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_literal_prefix_is_what_every_match_begins_with() {
        for (pattern, cap, prefix) in [("ab\\*c*", 9, "ab*c"), ("ab?c", 9, "ab"), ("abc", 2, "ab"), ("[a]b", 9, "")] {
            assert_eq!(Pattern::new(pattern).literal_prefix(cap), prefix.as_bytes(), "{pattern}");
        }
    }
}
