//! The parameters behind a question mark.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::answer::Problem;

/// Parameters that are taken out one by one.
#[derive(Debug)]
pub(super) struct Query {
    parameters: Vec<(String, String)>,
}

impl Query {
    /// Reads a query of these parameters, each at most once.
    pub(super) fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).unwrap_or_default();
            if !known.contains(&name.as_str()) {
                let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                let message = format!(
                    "is not known here; the parameters are `{}`",
                    known.join("`, `")
                );
                return Err(Problem::invalid(&name, &message));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Problem::invalid(&name, "stands there twice"));
            }
            let Some(value) = decode(value) else {
                return Err(Problem::invalid(&name, "is no text in UTF-8"));
            };
            parameters.push((name, value));
        }
        Ok(Self { parameters })
    }

    /// Takes a parameter.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let index = self
            .parameters
            .iter()
            .position(|(other, _)| other == name)?;
        Some(self.parameters.swap_remove(index).1)
    }

    /// Takes a parameter and reads it.
    pub(super) fn parse<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(text) => match read(&text) {
                Ok(value) => Ok(Some(value)),
                Err(message) => Err(Problem::invalid(name, &message)),
            },
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let text = match text.contains('+') {
        true => Cow::Owned(text.replace('+', " ")),
        false => Cow::Borrowed(text),
    };
    let decoded = percent_decode_str(&text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_checked() {
        let mut query = Query::read(Some("key=a%26b+c%C3%BC&from="), &["key", "from"]).unwrap();
        assert_eq!(query.take("key").as_deref(), Some("a&b cü"));
        assert_eq!(query.take("from").as_deref(), Some(""));
        assert_eq!(query.take("from"), None);
        for wrong in ["who=me", "key=1&key=2", "key=%ff", "%00=1", "k%65y=1&key=2"] {
            assert!(Query::read(Some(wrong), &["key"]).is_err(), "{wrong}");
        }
        assert!(Query::read(None, &[]).is_ok());
    }
}
