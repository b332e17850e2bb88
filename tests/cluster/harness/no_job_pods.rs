//! A rule that refuses the pods of Jobs, and only those: no dry run of the user's own can foresee it.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::namespace::{Namespace, Who};
use super::settings::Settings;
use super::{poll, say, target};

/// The rule, in one namespace. Dropping it removes it.
pub(crate) struct NoJobPods {
    name: String,
}

impl NoJobPods {
    /// What the refusal says.
    pub(crate) const MESSAGE: &str = "no pods of jobs in this test";

    /// Makes the rule and waits until it is in force.
    pub(crate) async fn apply(namespace: &Namespace) -> Self {
        let rule = Self {
            name: namespace.name().to_owned(),
        };
        let name = &rule.name;
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": name},
                "spec": {
                    "failurePolicy": "Fail",
                    "matchConstraints": {"resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
                    ]},
                    "validations": [{
                        "expression": "!request.userInfo.username.endsWith(':job-controller')",
                        "message": Self::MESSAGE,
                    }],
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": name},
                "spec": {
                    "policyName": name, "validationActions": ["Deny"],
                    "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
                },
            },
        ]});
        let file = namespace.folder().join("no-job-pods.json");
        std::fs::write(&file, objects.to_string()).expect("write the objects");
        namespace
            .kubectl_ok(&["create", "-f", file.to_str().expect("a plain path")])
            .await;
        // Allowed by everything else, so that only the rule can refuse it.
        let probe = namespace.folder().join("probe.json");
        std::fs::write(&probe, target::pod("probe").to_string()).expect("write the probe");
        let create = [
            "create",
            "--dry-run=server",
            "-f",
            probe.to_str().expect("a plain path"),
        ];
        let controller = ["--as", "system:serviceaccount:kube-system:job-controller"];
        poll(Duration::from_secs(20), "the rule's effect", async || {
            let output = namespace
                .kubectl(Who::Admin, &[&create[..], &controller].concat())
                .await;
            String::from_utf8_lossy(&output.stderr)
                .contains(Self::MESSAGE)
                .then_some(())
        })
        .await;
        rule
    }
}

impl Drop for NoJobPods {
    fn drop(&mut self) {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&Settings::get().admin)
            .arg("delete");
        command.args([
            "validatingadmissionpolicybinding,validatingadmissionpolicy",
            &self.name,
        ]);
        if let Err(error) = command.stdin(Stdio::null()).stdout(Stdio::null()).status() {
            say(&format!("{} is not removed: {error}", self.name));
        }
    }
}
