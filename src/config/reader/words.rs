//! How messages name what stands in the file, and what may have been meant.

/// Quotes what stands in the file, shortened, and fit for a terminal.
pub(in super::super) fn quote(raw: &str) -> String {
    format!("\"{}\"", shown(raw))
}

pub(super) fn shown(raw: &str) -> String {
    const LONGEST: usize = 60;
    let mut text: String = raw
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if raw.chars().count() > LONGEST {
        text.push('…');
    }
    text
}

/// Words an error of the operating system without its number.
pub(in super::super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

/// Names the known word that a written one most likely meant.
pub(in super::super) fn suggest(written: &str, known: &[&str]) -> String {
    let distance = |name: &&&str| strsim::damerau_levenshtein(written, name);
    let nearest = known.iter().min_by_key(distance);
    match nearest {
        // Half of the letters may be wrong: the list is short, and a far guess still shows what there is.
        Some(name) if strsim::damerau_levenshtein(written, name) <= name.len().max(3) / 2 => {
            format!("did you mean `{name}`?")
        }
        _ => {
            let mut known = known.to_vec();
            known.sort_unstable();
            format!("known here: {}", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_or_all_of_them() {
        let known = ["listen", "token"];
        assert_eq!(suggest("lisen", &known), "did you mean `listen`?");
        assert_eq!(suggest("tokne", &known), "did you mean `token`?");
        assert_eq!(suggest("colour", &known), "known here: listen, token");
    }

    #[test]
    fn quotes_are_short_and_hold_no_control_characters() {
        assert_eq!(quote("a\u{1b}[31m\n"), "\"a\\u{1b}[31m\\n\"");
        assert_eq!(quote(&"x".repeat(100)).chars().count(), 63);
    }
}
