//! The parsers, and what they have to say in words for who writes manifests.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Parses one document of JSON.
pub fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The most bytes that are parsed again because of numbers that are text, whatever the size of the
/// document.
const MOST_AGAIN: usize = 256 << 20;

/// Parses one YAML document whose first line has this number in its file.
///
/// As Kubernetes reads it (sigs.k8s.io/yaml, YAML 1.1): 0122 is 82, and what looks like a number and is
/// too large for one (`7e89012`, the hash of a commit) is text. Booleans in words are text here, as
/// names may be such words; where one is meant, they are read as what they mean.
pub fn from_yaml<T: DeserializeOwned>(text: &str, first_line: usize) -> Result<T, String> {
    let mut text = Cow::Borrowed(text);
    let mut again = MOST_AGAIN;
    loop {
        match serde_saphyr::from_str_with_options(&text, options()) {
            Ok(value) => return Ok(value),
            Err(error) => text = fixed(&text, &error, first_line, &mut again)?.into(),
        }
    }
}

// There is a copy of the function above for each kind of object, but not of these.
#[inline(never)]
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
        with_snippet: false,
        // A List of 5,000 Nodes as `kubectl get -o yaml` prints it is a fair manifest. Aliases
        // cannot be used to blow it up: what they stand for is limited separately.
        budget: serde_saphyr::budget! {
            max_events: 50_000_000,
            max_nodes: 50_000_000,
        },
        // A few hundred bytes can stand for any number of events, each of which takes memory and time.
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 20_000,
        },
    }
}

/// The text without what was wrong with it, if it is one that Kubernetes reads; else what is to be said.
#[inline(never)]
fn fixed(
    text: &str,
    error: &serde_saphyr::Error,
    first_line: usize,
    again: &mut usize,
) -> Result<String, String> {
    let left = again.checked_sub(text.len());
    if let (Some(left), Some(quoted)) = (left, with_quotes(text, error)) {
        *again = left;
        return Ok(quoted);
    }
    let line = error
        .location()
        .map_or(0, |location| location.line() as usize);
    let message = error.without_snippet().to_string();
    let message = message.lines().next().unwrap_or("cannot be parsed");
    let message = plain(without_place(message));
    Err(format!(
        "line {}: {message}",
        first_line + line.saturating_sub(1)
    ))
}

/// The same text with quotes around the number that is too large for one, if that is what is wrong,
/// there and in all equal lines: the objects of a list often have the same labels. In a text of several
/// lines that changes nothing that is read here, but breaks one in single quotes.
fn with_quotes(text: &str, error: &serde_saphyr::Error) -> Option<String> {
    let serde_saphyr::Error::NonFiniteFloat { value, location } = error.without_snippet() else {
        return None;
    };
    // The others are `.inf` and `.nan`, with or without a sign.
    let is_number = value.contains(|c: char| c.is_ascii_digit());
    let start = usize::try_from(location.span().byte_offset()?).ok()?;
    let rest = text.get(start..)?.strip_prefix(&**value)?;
    if !is_number {
        return None;
    }
    let before = &text[..start];
    let first = before.rfind('\n').map_or(0, |end| end + 1);
    let key = before[first..].trim_start();
    let end = rest.find('\n').unwrap_or(rest.len());
    let (rest_of_line, later) = rest.split_at(end);
    let line = format!("{key}{value}{rest_of_line}");
    let quoted = format!("{key}'{value}'{rest_of_line}");
    let mut all = format!("{}{quoted}", &before[..before.len() - key.len()]);
    for one in later.split_inclusive('\n') {
        match one.trim_start().strip_prefix(&*line) {
            Some(end) if !key.is_empty() && end.trim_end_matches('\n').is_empty() => {
                all.push_str(&one[..one.len() - line.len() - end.len()]);
                all.push_str(&quoted);
                all.push_str(end);
            }
            _ => all.push_str(one),
        }
    }
    Some(all)
}

/// A message of the parser in the words of who writes manifests, without advice for who calls it.
fn plain(message: &str) -> &str {
    if message.contains("alias replay limit") {
        return "its aliases (`*name`) stand for too much; write out what they stand for";
    }
    if message.contains("from_str_multiple") {
        return "it has several documents that are not between lines of `---` that end with LF; end all \
                lines with LF, not with CR alone";
    }
    if message.contains("expected mapping start") {
        return "there is something else where a map belongs; write `name: value` there, at the top of each \
                object its `apiVersion` and `kind`, and a line of `---` between two objects";
    }
    if message.contains("budget") {
        return "it is too large or nested too deeply for a manifest";
    }
    let advice = [
        ", set DuplicateKeyPolicy",
        "; set DuplicateKeyPolicy",
        " (set DuplicateKeyPolicy",
    ];
    let ends = advice.iter().filter_map(|advice| message.find(advice));
    ends.min().map_or(message, |end| &message[..end])
}

/// A message of the parser without `at line 1, column 7` at its end: it counts from the start of
/// the document, and a file may have several.
pub fn without_place(message: &str) -> &str {
    let place = |text: &str| {
        let mut words = text.split(", column ");
        words.clone().count() == 2 && words.all(|word| word.parse::<u64>().is_ok())
    };
    match message.rsplit_once(" at line ") {
        Some((start, end)) if place(end) => start,
        _ => message,
    }
}
