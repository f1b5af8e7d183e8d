//! Small questions to the output of commands.

/// Whether a line of `output` has these words, one after another, however they are spaced.
pub fn has_words(output: &str, words: &str) -> bool {
    let wanted: Vec<&str> = words.split_whitespace().collect();
    output.lines().any(|line| {
        let found: Vec<&str> = line.split_whitespace().collect();
        found.windows(wanted.len()).any(|window| window == wanted)
    })
}

/// How many lines begin with `start`.
pub fn lines_with(output: &str, start: &str) -> usize {
    output
        .lines()
        .filter(|line| line.starts_with(start))
        .count()
}

/// How many lines are not empty.
pub fn lines(output: &str) -> usize {
    output
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count()
}

/// The word after `word` in the first line that has it.
pub fn word_after<'a>(output: &'a str, word: &str) -> Option<&'a str> {
    output.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|found| *found != word);
        words.nth(1)
    })
}

/// Whether a web server of the pod answered this client.
pub fn answers(output: &str, pod: &str, client: &str) -> bool {
    let answer = format!("{pod} answers {client}");
    output.lines().any(|line| line.trim() == answer)
}

/// The count that `uniq -c` printed before the answers of a pod; 0 if there are none.
pub fn count_of(output: &str, pod: &str) -> u32 {
    let counts = output.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let count = words.next()?.parse::<u32>().ok()?;
        (words.next()? == pod).then_some(count)
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_must_follow_each_other_on_one_line() {
        let output = "10.10.1.2 via 10.10.2.1 dev eth0  src 10.10.2.3 uid 0\n    cache\n";
        assert!(has_words(output, "via 10.10.2.1 dev eth0 src 10.10.2.3"));
        assert!(!has_words(output, "via 10.10.2.1 src 10.10.2.3"));
        assert!(!has_words(output, "via 10.10.2.10"));
        assert!(!has_words("a\nb", "a b"));
    }

    #[test]
    fn an_answer_names_the_pod_and_the_client_exactly() {
        assert!(answers("web-1 answers 10.10.0.6\n", "web-1", "10.10.0.6"));
        assert!(!answers("web-1 answers 10.10.0.60\n", "web-1", "10.10.0.6"));
        assert!(!answers("curl: (7) Failed\n", "web-1", "10.10.0.6"));
    }

    #[test]
    fn the_word_after_a_word_is_found() {
        assert_eq!(word_after("x dev veth12 src y", "dev"), Some("veth12"));
        assert_eq!(word_after("x dev", "dev"), None);
    }
}
