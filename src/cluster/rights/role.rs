//! The Role that grants what every feature needs, and the `RoleBinding` that gives it to one user, as YAML to paste.
//!
//! Pure. README shows the same rules; a test compares them, and asks them for every right of [`super`].

use crate::cluster::identity::Identity;

/// All rules, whether missing or not: a Role of this name that is there already loses nothing.
const RULES: &str = r#"rules:
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create, list]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/exec]
  verbs: [get, create]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]            # optional: start failures are told faster
  resources: [events]
  verbs: [list, watch]
- apiGroups: [""]            # for expose
  resources: [services]
  verbs: [create, get, list, patch, delete]
- apiGroups: [discovery.k8s.io]   # for expose, and for forward to headless services
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [networking.k8s.io]  # for expose --allow-from
  resources: [networkpolicies]
  verbs: [create, list, watch]
- apiGroups: [apps]               # for forward to workloads (services and jobs as above: get, list)
  resources: [deployments, replicasets, statefulsets, daemonsets]
  verbs: [get, list]
- apiGroups: [""]                 # for forward --via=pod, and optional: the second, faster transport
  resources: [pods/portforward]
  verbs: [get, create]
"#;

/// What an administrator applies so that `user` can do everything in `namespace`.
#[must_use]
pub fn role(namespace: &str, user: &Identity) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: kubectl-tunnel
  namespace: {namespace}
{RULES}---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: kubectl-tunnel-{label}
  namespace: {namespace}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: kubectl-tunnel
subjects:
- {subject}
",
        label = user.label,
        subject = subject(&user.name)
    )
}

/// JSON is YAML, whatever the name holds.
fn subject(user: &str) -> serde_json::Value {
    let account = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => {
            serde_json::json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        None => {
            serde_json::json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user})
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authorization::v1::ResourceRule;
    use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};

    use super::*;
    use crate::cluster::rights::{FEATURES, SESSION, allowed};

    fn parsed(user: &str) -> (Role, RoleBinding) {
        let text = role("dev", &Identity::from_name(user));
        let (role, binding) = text.split_once("---\n").unwrap();
        (
            serde_saphyr::from_str(role).unwrap(),
            serde_saphyr::from_str(binding).unwrap(),
        )
    }

    #[test]
    fn it_grants_every_right_there_is() {
        let shown = |rule: PolicyRule| ResourceRule {
            verbs: rule.verbs,
            api_groups: rule.api_groups,
            resources: rule.resources,
            resource_names: rule.resource_names,
        };
        let (role, _) = parsed("ana");
        let rules: Vec<ResourceRule> = role.rules.unwrap().into_iter().map(shown).collect();
        for right in SESSION
            .iter()
            .chain(FEATURES.iter().flat_map(|(_, rights)| *rights))
        {
            assert!(allowed(&rules, *right), "{right}");
        }
        assert!(include_str!("../../../README.md").contains(RULES));
    }

    #[test]
    fn it_is_bound_to_users_of_any_name_and_to_service_accounts() {
        for (user, kind, name, namespace) in [
            ("ana: \"a\"", "User", "ana: \"a\"", None),
            (
                "system:serviceaccount:ci:robot",
                "ServiceAccount",
                "robot",
                Some("ci"),
            ),
        ] {
            let (role, binding) = parsed(user);
            let subject = binding.subjects.unwrap().remove(0);
            assert_eq!(
                (
                    subject.kind.as_str(),
                    subject.name.as_str(),
                    subject.namespace.as_deref()
                ),
                (kind, name, namespace)
            );
            assert_eq!(Some(binding.role_ref.name), role.metadata.name);
        }
    }
}
