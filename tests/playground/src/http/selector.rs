//! Label and field selectors of list and watch.
//!
//! Pure. Field selectors know the fields a real API server indexes for our kinds; any other is
//! refused, as there, instead of silently matching everything.

use serde_json::Value;

use crate::object;

/// Fields that may be selected on, for whichever kind has them.
const FIELDS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.kind",
    "involvedObject.uid",
    "reason",
    "type",
    "spec.nodeName",
    "status.phase",
];

/// Both selectors of one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<(String, Test)>,
    fields: Vec<(String, Test)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectorError {
    #[error("unable to parse requirement: {text:?}")]
    Unreadable { text: String },
    #[error("field label not supported: {field}")]
    Field { field: String },
}

impl Selector {
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self, SelectorError> {
        let labels = split(labels).map(requirement).collect::<Result<Vec<_>, _>>()?;
        let fields = split(fields).map(requirement).collect::<Result<Vec<_>, _>>()?;
        if let Some((field, _)) = fields.iter().find(|(field, _)| !FIELDS.contains(&field.as_str())) {
            return Err(SelectorError::Field { field: field.clone() });
        }
        Ok(Self { labels, fields })
    }

    pub(crate) fn matches(&self, candidate: &Value) -> bool {
        let labels = &candidate["metadata"]["labels"];
        self.labels
            .iter()
            .all(|(key, test)| test.holds(labels.get(key).and_then(Value::as_str)))
            && self
                .fields
                .iter()
                .all(|(path, test)| test.holds(Some(object::field(candidate, path))))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let among = |list: &[String]| value.is_some_and(|value| list.iter().any(|entry| entry == value));
        match self {
            Self::In(list) => among(list),
            Self::NotIn(list) => !among(list),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

fn requirement(text: &str) -> Result<(String, Test), SelectorError> {
    let unreadable = || SelectorError::Unreadable {
        text: text.to_owned(),
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    let (key, test) = if let Some((key, value)) = text.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = text.split_once("==") {
        (key, Test::In(one(value)))
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Test::In(one(value)))
    } else if let Some((head, list)) = text.split_once('(') {
        let list = list.strip_suffix(')').ok_or_else(unreadable)?;
        let list = list.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().rsplit_once(' ').ok_or_else(unreadable)? {
            (key, "in") => (key, Test::In(list)),
            (key, "notin") => (key, Test::NotIn(list)),
            _ => return Err(unreadable()),
        }
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(unreadable());
    }
    Ok((key.to_owned(), test))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "web", "tier": "a"}}});
        Selector::parse(labels, fields).unwrap().matches(&pod)
    }

    #[test]
    fn every_form_of_requirement() {
        assert!(matches("", ""));
        assert!(matches("app=web,tier==a", "metadata.name=p"));
        assert!(matches("app in (x, web),tier notin (b,c),app,!other,none!=x", ""));
        assert!(!matches("app=x", ""));
        assert!(!matches("other", ""));
        assert!(!matches("!app", ""));
        assert!(!matches("app notin (web)", ""));
        assert!(!matches("", "metadata.name!=p"));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(Selector::parse("app in (x", "").is_err());
        assert!(Selector::parse("a b", "").is_err());
        let unknown = Selector::parse("", "spec.hostname=x");
        assert_eq!(
            unknown,
            Err(SelectorError::Field {
                field: "spec.hostname".to_owned()
            })
        );
    }
}
