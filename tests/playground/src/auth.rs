//! Who asks and what they may do: the table of bearer tokens and the rules of `edit`.
//!
//! Rights are a list of rules as in a Role, so that the same list answers requests, access reviews
//! and rules reviews. No groups, no role objects: a test names a user with rights, not a binding.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One rule: these verbs on these resources. `*` stands for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API groups; the core group is the empty string.
    pub groups: Vec<String>,
    /// Plural names, with sub-resource where one is meant: `pods/exec`.
    pub resources: Vec<String>,
    /// Verbs.
    pub verbs: Vec<String>,
}

/// What a user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    Admin,
    /// These rules in these namespaces.
    In {
        /// The namespaces the rules hold in.
        namespaces: Vec<String>,
        /// The rules.
        rules: Vec<Rule>,
    },
    /// Nothing.
    None,
}

/// A user with a bearer token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, as `SelfSubjectReview` tells it and as the kubeconfig's context is called.
    pub name: String,
    /// The bearer token.
    pub token: String,
    /// Rights.
    pub rights: Rights,
}

/// A question to the rules.
#[derive(Clone, Debug)]
pub(crate) struct Access<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// With sub-resource: `pods/exec`.
    pub(crate) resource: &'a str,
    /// Empty for cluster-wide.
    pub(crate) namespace: &'a str,
}

impl Rule {
    /// A rule from words separated by spaces; `core` is the empty group.
    pub fn new(groups: &str, resources: &str, verbs: &str) -> Self {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let groups = words(groups)
            .into_iter()
            .map(|g| if g == "core" { String::new() } else { g })
            .collect();
        Self {
            groups,
            resources: words(resources),
            verbs: words(verbs),
        }
    }

    fn allows(&self, access: &Access<'_>) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|entry| entry == "*" || entry == word);
        has(&self.groups, access.group)
            && has(&self.resources, access.resource)
            && has(&self.verbs, access.verb)
    }

    fn as_json(&self) -> Value {
        json!({"apiGroups": self.groups, "resources": self.resources, "verbs": self.verbs})
    }
}

impl Rights {
    /// The part of `ClusterRole` `edit` that concerns the kinds played here, in `namespaces`.
    pub fn edit(namespaces: &[&str]) -> Self {
        let write = "create delete deletecollection get list patch update watch";
        let read = "get list watch";
        let rules = vec![
            Rule::new("core", "pods services configmaps secrets serviceaccounts", write),
            Rule::new("core", "pods/exec pods/portforward pods/attach", "create get"),
            Rule::new(
                "core",
                "pods/log events limitranges resourcequotas namespaces",
                read,
            ),
            Rule::new("batch", "jobs", write),
            Rule::new("apps", "deployments statefulsets replicasets daemonsets", write),
            Rule::new("discovery.k8s.io", "endpointslices", read),
            Rule::new("networking.k8s.io", "networkpolicies", write),
        ];
        Self::In {
            namespaces: namespaces.iter().map(|&ns| ns.to_owned()).collect(),
            rules,
        }
    }

    pub(crate) fn allows(&self, access: &Access<'_>) -> bool {
        match self {
            Self::Admin => true,
            Self::None => false,
            Self::In { namespaces, rules } => {
                namespaces.iter().any(|ns| ns == access.namespace) && rules.iter().any(|r| r.allows(access))
            }
        }
    }

    /// The `resourceRules` of a rules review for `namespace`.
    pub(crate) fn rules_in(&self, namespace: &str) -> Vec<Value> {
        match self {
            Self::Admin => vec![Rule::new("*", "*", "*").as_json()],
            Self::In { namespaces, rules } if namespaces.iter().any(|ns| ns == namespace) => {
                rules.iter().map(Rule::as_json).collect()
            }
            Self::In { .. } | Self::None => Vec::new(),
        }
    }
}

impl User {
    /// A user whose token is derived from the name.
    pub fn new(name: &str, rights: Rights) -> Self {
        Self {
            name: name.to_owned(),
            token: format!("playground-{name}"),
            rights,
        }
    }

    pub(crate) fn refusal_text(&self, access: &Access<'_>) -> String {
        let scope = if access.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", access.namespace)
        };
        format!(
            "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
            self.name, access.verb, access.resource, access.group
        )
    }
}

/// Users by token.
#[derive(Debug)]
pub(crate) struct Users {
    by_token: BTreeMap<String, User>,
}

impl Users {
    pub(crate) fn new(users: &[User]) -> Self {
        Self {
            by_token: users
                .iter()
                .map(|user| (user.token.clone(), user.clone()))
                .collect(),
        }
    }

    /// The user an `Authorization` header names; no header is the anonymous user, a wrong one nobody.
    pub(crate) fn find(&self, authorization: Option<&str>) -> Option<User> {
        let Some(header) = authorization else {
            return Some(User::new("system:anonymous", Rights::None));
        };
        self.by_token.get(header.strip_prefix("Bearer ")?).cloned()
    }

    /// The user of that name, or one without rights: what `--as` becomes.
    pub(crate) fn named(&self, name: &str) -> User {
        let known = self.by_token.values().find(|user| user.name == name);
        known.cloned().unwrap_or_else(|| User::new(name, Rights::None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_holds_in_its_namespaces_and_for_its_verbs_only() {
        let edit = Rights::edit(&["dev"]);
        let may = |verb, group, resource, namespace| {
            edit.allows(&Access {
                verb,
                group,
                resource,
                namespace,
            })
        };
        assert!(may("create", "batch", "jobs", "dev"));
        assert!(may("create", "", "pods/exec", "dev"));
        assert!(!may("create", "batch", "jobs", "other"));
        assert!(!may("create", "discovery.k8s.io", "endpointslices", "dev"));
        assert!(!may("list", "", "nodes", ""));
    }

    #[test]
    fn a_wrong_token_is_nobody_and_none_is_anonymous() {
        let users = Users::new(&[User::new("developer", Rights::Admin)]);
        assert_eq!(
            users.find(Some("Bearer playground-developer")).unwrap().name,
            "developer"
        );
        assert!(users.find(Some("Bearer other")).is_none());
        assert_eq!(users.find(None).unwrap().rights, Rights::None);
    }
}
