//! What an event is about: made of its path and of its event type.

/// `topic` of an endpoint: a text in which `{path}` and `{event}` stand for those. `path` and `event` alone mean themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicForm(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Path,
    Event,
}

impl TopicForm {
    /// Reads one; says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => return Err("it is empty".to_owned()),
            "path" => return Ok(TopicForm(vec![Part::Path])),
            "event" => return Ok(TopicForm(vec![Part::Event])),
            _ => {}
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some((name, behind)) = behind.split_once('}') else {
                return Err("a { is not closed".to_owned());
            };
            parts.push(match name {
                "path" => Part::Path,
                "event" => Part::Event,
                other => return Err(format!("there is no {{{other}}}")),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(TopicForm(parts))
    }

    /// Whether it is made of the event type.
    pub(crate) fn needs_event(&self) -> bool {
        self.0.contains(&Part::Event)
    }

    /// The topic; `None` where it is made of an event type and there is none.
    pub(crate) fn of(&self, path: &str, event: Option<&str>) -> Option<String> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Path => Some(path),
                Part::Event => event.filter(|event| !event.is_empty()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_made_of_its_parts() {
        for (form, topic) in [
            ("path", "hooks/a"),
            ("event", "push"),
            ("github.{event}", "github.push"),
            ("{path}/{event}!", "hooks/a/push!"),
            ("always this", "always this"),
        ] {
            assert_eq!(TopicForm::parse(form).unwrap().of("hooks/a", Some("push")).as_deref(), Some(topic));
        }
    }

    #[test]
    fn without_an_event_type_there_is_no_topic_made_of_it() {
        let form = TopicForm::parse("github.{event}").unwrap();

        assert!(form.needs_event());
        assert_eq!((form.of("p", None), form.of("p", Some(""))), (None, None));
        assert_eq!(TopicForm::parse("path").unwrap().of("p", None).as_deref(), Some("p"));
    }

    #[test]
    fn what_is_no_form_is_said() {
        for wrong in ["", "{evnt}", "{path", "a{}"] {
            assert!(TopicForm::parse(wrong).is_err(), "{wrong}");
        }
    }
}
