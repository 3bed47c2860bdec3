//! `${NAME}` and `${NAME:-default}` in the configuration's strings.

/// Replaces references to the environment. `$${` stands for `${` itself; any other `$` is a plain character.
///
/// # Errors
/// One message per reference that cannot be followed. They name variables, never what is in them.
pub(super) fn expand(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Vec<String>> {
    let mut expanded = String::with_capacity(text.len());
    let mut problems = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &reference[2..];
            continue;
        }
        expanded.push_str(before);
        let Some((inside, behind)) = reference[2..].split_once('}') else {
            problems.push("`${` has no `}`; write `${NAME}`, or `$${` for the characters".into());
            rest = "";
            break;
        };
        rest = behind;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_variable(name) {
            problems.push(
                "`${…}` holds no name of a variable; write `${NAME}` or `${NAME:-default}`".into(),
            );
            continue;
        }
        // Set to nothing counts as not set, as in the shell's `:-`.
        match env(name).filter(|value| !value.is_empty()) {
            Some(value) => expanded.push_str(&value),
            None => match default {
                Some(default) => expanded.push_str(default),
                None => problems.push(format!(
                    "the environment variable {name} is not set; set it, or write `${{{name}:-default}}`"
                )),
            },
        }
    }
    expanded.push_str(rest);
    if problems.is_empty() {
        Ok(expanded)
    } else {
        Err(problems)
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.org".into()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".into()),
            _ => None,
        }
    }

    #[test]
    fn references_are_replaced_once() {
        for (text, expected) in [
            ("plain $5 $ {", "plain $5 $ {"),
            ("https://${HOST}/v1", "https://example.org/v1"),
            ("${HOST}${HOST}", "example.orgexample.org"),
            ("${NOPE:-other}", "other"),
            ("${EMPTY:-other}", "other"),
            ("${NOPE:-}", ""),
            ("${HOST:-other}", "example.org"),
            ("${NESTED}", "${HOST}"),
            ("$${HOST}", "${HOST}"),
        ] {
            assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_bad_reference_is_told() {
        assert_eq!(expand("${NOPE} ${EMPTY}", &env).unwrap_err().len(), 2);
        for text in ["${", "a${HOST", "${}", "${A B}", "${1A}", "${:-x}"] {
            assert_eq!(expand(text, &env).unwrap_err().len(), 1, "{text}");
        }
    }
}
