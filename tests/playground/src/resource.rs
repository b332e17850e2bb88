//! The kinds of object the playground knows, with their names in URLs and bodies.
//!
//! A kind that is only stored (quotas, secrets) costs one row here and nothing else.

/// One kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
    /// `v1` `ConfigMap`.
    ConfigMap,
    /// `v1` Service.
    Service,
    /// `v1` Event.
    Event,
    /// `v1` Secret, stored only.
    Secret,
    /// `v1` `LimitRange`, stored only.
    LimitRange,
    /// `v1` `ResourceQuota`, stored only.
    ResourceQuota,
    /// `v1` `ServiceAccount`, stored only.
    ServiceAccount,
    /// `batch/v1` Job.
    Job,
    /// `apps/v1` Deployment, stored only: nobody makes pods for it.
    Deployment,
    /// `apps/v1` `StatefulSet`, stored only.
    StatefulSet,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `networking.k8s.io/v1` `NetworkPolicy`, stored only: nothing here enforces one.
    NetworkPolicy,
}

impl Resource {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Namespace,
        Self::Pod,
        Self::ConfigMap,
        Self::Service,
        Self::Event,
        Self::Secret,
        Self::LimitRange,
        Self::ResourceQuota,
        Self::ServiceAccount,
        Self::Job,
        Self::Deployment,
        Self::StatefulSet,
        Self::EndpointSlice,
        Self::NetworkPolicy,
    ];

    /// Group, version, plural, kind.
    const fn row(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Namespace => ("", "v1", "namespaces", "Namespace"),
            Self::Pod => ("", "v1", "pods", "Pod"),
            Self::ConfigMap => ("", "v1", "configmaps", "ConfigMap"),
            Self::Service => ("", "v1", "services", "Service"),
            Self::Event => ("", "v1", "events", "Event"),
            Self::Secret => ("", "v1", "secrets", "Secret"),
            Self::LimitRange => ("", "v1", "limitranges", "LimitRange"),
            Self::ResourceQuota => ("", "v1", "resourcequotas", "ResourceQuota"),
            Self::ServiceAccount => ("", "v1", "serviceaccounts", "ServiceAccount"),
            Self::Job => ("batch", "v1", "jobs", "Job"),
            Self::Deployment => ("apps", "v1", "deployments", "Deployment"),
            Self::StatefulSet => ("apps", "v1", "statefulsets", "StatefulSet"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
        }
    }

    /// The API group, empty for the core group.
    pub fn group(self) -> &'static str {
        self.row().0
    }

    /// The version, such as `v1`.
    pub fn version(self) -> &'static str {
        self.row().1
    }

    /// The name in URLs, such as `jobs`.
    pub fn plural(self) -> &'static str {
        self.row().2
    }

    /// The `kind`, such as `Job`.
    pub fn kind(self) -> &'static str {
        self.row().3
    }

    /// The `apiVersion`, such as `batch/v1`.
    pub fn api_version(self) -> String {
        if self.group().is_empty() {
            return self.version().to_owned();
        }
        format!("{}/{}", self.group(), self.version())
    }

    /// `jobs.batch`, as error texts name it.
    pub(crate) fn qualified(self) -> String {
        if self.group().is_empty() {
            return self.plural().to_owned();
        }
        format!("{}.{}", self.plural(), self.group())
    }

    pub(crate) fn is_namespaced(self) -> bool {
        self != Self::Namespace
    }

    pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|r| (r.group(), r.version(), r.plural()) == (group, version, plural))
    }
}
