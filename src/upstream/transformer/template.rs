//! Chat templates: from messages to the text that the model was trained on.
//!
//! A template comes with the model, so it is trusted to mean well but not to be right: it runs on bounded fuel, writes
//! a bounded amount and sees nothing but the messages. What the messages say is not trusted at all; see
//! [`tokenizer`](super::tokenizer) on control tokens.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::error::LoadError;
use super::tokenizer::{Controls, Segment};

/// A long conversation of a thousand messages takes about a tenth.
const FUEL: u64 = 2_000_000;
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// Noncharacters: no text should have them, and 32 different ones in one conversation have no business there.
const GUARDS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// One message of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What it says.
    pub content: String,
}

/// A compiled template.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// Why messages cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenderError {
    /// The template says so itself.
    #[error("{0}")]
    Refused(String),
    #[error("the chat template failed")]
    Failed(#[source] Error),
    #[error("the messages use every character reserved for marking them")]
    Guard,
}

/// What a template raised.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

struct Bounded(Vec<u8>);

// === impl ChatTemplate ===

impl ChatTemplate {
    pub(super) fn compile(source: &str, bos: &str, eos: &str) -> Result<Self, LoadError> {
        let mut environment = Environment::new();
        // As transformers compiles them.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(|e| LoadError::Template(e.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(100);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        });
        environment
            .add_template_owned("chat", source.to_owned())
            .map_err(|e| LoadError::Template(e.to_string()))?;
        Ok(Self {
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// Renders messages, and the beginning of the answer to them.
    pub(super) fn render(
        &self,
        messages: &[Message],
        controls: &Controls,
    ) -> Result<Vec<Segment>, RenderError> {
        let unused = |guard: &char| !messages.iter().any(|m| m.content.contains(*guard));
        let guard = GUARDS.clone().find(unused).ok_or(RenderError::Guard)?;
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => &m.role, content => controls.guard(&m.content, guard) })
            .collect();
        let template = self
            .environment
            .get_template("chat")
            .map_err(RenderError::new)?;
        let mut output = Bounded(Vec::new());
        let values = context! {
            messages,
            bos_token => &self.bos,
            eos_token => &self.eos,
            add_generation_prompt => true,
        };
        template
            .render_captured_to(values, &mut output)
            .map_err(RenderError::new)?;
        Ok(controls.split(&String::from_utf8_lossy(&output.0), guard))
    }
}

impl RenderError {
    fn new(error: Error) -> Self {
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref() {
                return Self::Refused(message.clone());
            }
            source = cause.source();
        }
        Self::Failed(error)
    }
}

// === impl Bounded ===

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other("the chat template writes too much"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<Vec<Segment>, RenderError> {
        let message = Message {
            role: "user".into(),
            content: "hi".into(),
        };
        ChatTemplate::compile(source, "<s>", "</s>")
            .unwrap()
            .render(&[message], &Controls::default())
    }

    #[test]
    fn speaks_the_dialect_of_hugging_face() {
        let source = "{%- for m in messages %}\n  {% if m['role'].startswith('u') %}\n[{{ m.content | trim }}]{% break %}{% endif %}{% endfor %}{{ bos_token }}";
        assert_eq!(render(source).unwrap(), [Segment::Text("[hi]<s>".into())]);
    }

    #[test]
    fn what_a_template_raises_is_told() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert!(matches!(error, RenderError::Refused(m) if m == "roles must alternate"));
    }

    #[test]
    fn endless_templates_end() {
        let source =
            "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(matches!(render(source), Err(RenderError::Failed(_))));
    }

    #[test]
    fn a_broken_template_is_refused_at_loading() {
        assert!(ChatTemplate::compile("{% for %}", "", "").is_err());
    }
}
