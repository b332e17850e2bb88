//! Rules of admission in one namespace: policies that refuse, and a webhook that does not answer.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::namespace::{Namespace, Who};
use super::settings::Settings;
use super::{poll, say, target};

const GROUP: &str = "admissionregistration.k8s.io/v1";

/// What a policy consists of.
const POLICY: &str = "validatingadmissionpolicybinding,validatingadmissionpolicy";

/// A rule, in one namespace. Dropping it removes it.
pub(crate) struct Rule {
    /// Of its objects, which have no namespace.
    name: String,
    kinds: &'static str,
}

impl Rule {
    /// What the refusal of a policy says.
    pub(crate) const MESSAGE: &str = "not in this test";

    /// Refuses the pods of Jobs, and only those: no dry run of the user's own can foresee it.
    pub(crate) async fn no_job_pods(namespace: &Namespace) -> Self {
        let expression = "!request.userInfo.username.endsWith(':job-controller')";
        let objects = policy(namespace, "", "pods", expression);
        let rule = Self::create(namespace, POLICY, &objects).await;
        // Allowed by everything else, so that only the rule can refuse it.
        let controller = ["--as", "system:serviceaccount:kube-system:job-controller"];
        in_force(namespace, &target::pod("probe"), &controller, Self::MESSAGE).await;
        rule
    }

    /// Refuses all Jobs.
    pub(crate) async fn no_jobs(namespace: &Namespace) -> Self {
        let objects = policy(namespace, "batch", "jobs", "false");
        let rule = Self::create(namespace, POLICY, &objects).await;
        in_force(namespace, &job(), &[], Self::MESSAGE).await;
        rule
    }

    /// Asks a webhook for each Job, and refuses what it does not allow: nobody listens there.
    pub(crate) async fn deaf_webhook(namespace: &Namespace, webhook: &str) -> Self {
        let objects = json!({
            "apiVersion": GROUP, "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": namespace.name()},
            "webhooks": [{
                "name": webhook,
                "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
                "timeoutSeconds": 2,
                // The API server's own machine, and a port that is never listened on.
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "namespaceSelector": only(namespace),
                "rules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}],
            }],
        });
        let rule = Self::create(namespace, "validatingwebhookconfiguration", &objects).await;
        in_force(namespace, &job(), &[], webhook).await;
        rule
    }

    async fn create(namespace: &Namespace, kinds: &'static str, objects: &Value) -> Self {
        let rule = Self {
            name: namespace.name().to_owned(),
            kinds,
        };
        let file = namespace.folder().join("rule.json");
        std::fs::write(&file, objects.to_string()).expect("write the objects");
        namespace
            .kubectl_ok(&["create", "-f", file.to_str().expect("a plain path")])
            .await;
        rule
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&Settings::get().admin)
            .args(["delete", self.kinds, &self.name]);
        if let Err(error) = command.stdin(Stdio::null()).stdout(Stdio::null()).status() {
            say(&format!("{} is not removed: {error}", self.name));
        }
    }
}

/// A policy that wants `expression` of each new object of this resource, and what binds it to the namespace.
fn policy(namespace: &Namespace, group: &str, resource: &str, expression: &str) -> Value {
    let name = namespace.name();
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [
                    {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]},
                ]},
                "validations": [{"expression": expression, "message": Rule::MESSAGE}],
            },
        },
        {
            "apiVersion": GROUP, "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {
                "policyName": name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": only(namespace)},
            },
        },
    ]})
}

fn only(namespace: &Namespace) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": namespace.name()}})
}

fn job() -> Value {
    let pod = target::pod("probe");
    let mut template = json!({"spec": pod["spec"]});
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "probe"}, "spec": {"template": template}})
}

/// Waits until a dry run of `object` is refused with these words.
async fn in_force(namespace: &Namespace, object: &Value, as_whom: &[&str], words: &str) {
    let probe = namespace.folder().join("probe.json");
    std::fs::write(&probe, object.to_string()).expect("write the probe");
    let create = [
        "create",
        "--dry-run=server",
        "-f",
        probe.to_str().expect("a plain path"),
    ];
    poll(Duration::from_secs(20), "the rule's effect", async || {
        let output = namespace
            .kubectl(Who::Admin, &[&create[..], as_whom].concat())
            .await;
        String::from_utf8_lossy(&output.stderr)
            .contains(words)
            .then_some(())
    })
    .await;
}
