//! From method, path and query to what is asked for.

use std::collections::HashMap;

use http::Method;

use crate::resource::Resource;

/// The kinds of path there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Health,
    Version,
    /// `/api`, `/apis`
    Groups,
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources,
    Review(Review),
    Resource(Resource),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    Subject,
    Access,
    Rules,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) target: Target,
    /// As rights name it: create, get, list, watch, patch, update, delete, deletecollection.
    pub(crate) verb: &'static str,
    /// The group of `Resources`; otherwise unused.
    pub(crate) group: String,
    /// Empty for cluster-wide requests. A Namespace is in itself.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    query: Vec<(String, String)>,
}

impl Route {
    /// `None`: there is nothing at this path.
    pub(crate) fn parse(method: &Method, path: &str, query: Option<&str>) -> Option<Self> {
        let query: Vec<(String, String)> = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let mut route = Self {
            target: Target::Groups,
            verb: "get",
            group: String::new(),
            namespace: String::new(),
            name: String::new(),
            subresource: String::new(),
            query,
        };
        match segments.as_slice() {
            ["healthz" | "livez" | "readyz"] => route.target = Target::Health,
            ["version"] => route.target = Target::Version,
            ["api"] => {}
            ["apis"] => "*".clone_into(&mut route.group),
            ["api", "v1"] => route.target = Target::Resources,
            ["apis", group, "v1"] => {
                (*group).clone_into(&mut route.group);
                route.target = Target::Resources;
            }
            ["api", "v1", rest @ ..] => route.resource("", rest)?,
            ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"] => {
                route.target = Target::Review(Review::Subject);
            }
            ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => {
                route.target = Target::Review(Review::Access);
            }
            ["apis", "authorization.k8s.io", "v1", "selfsubjectrulesreviews"] => {
                route.target = Target::Review(Review::Rules);
            }
            ["apis", group, "v1", rest @ ..] => route.resource(group, rest)?,
            _ => return None,
        }
        route.verb = route.verb_of(method)?;
        Some(route)
    }

    fn resource(&mut self, group: &str, rest: &[&str]) -> Option<()> {
        let (namespace, plural, name, subresource) = match *rest {
            ["namespaces"] => ("", "namespaces", "", ""),
            ["namespaces", name] => (name, "namespaces", name, ""),
            ["namespaces", namespace, plural] => (namespace, plural, "", ""),
            ["namespaces", namespace, plural, name] => (namespace, plural, name, ""),
            ["namespaces", namespace, plural, name, sub] => (namespace, plural, name, sub),
            [plural] => ("", plural, "", ""),
            _ => return None,
        };
        self.target = Target::Resource(Resource::find(group, "v1", plural)?);
        namespace.clone_into(&mut self.namespace);
        name.clone_into(&mut self.name);
        subresource.clone_into(&mut self.subresource);
        Some(())
    }

    fn verb_of(&self, method: &Method) -> Option<&'static str> {
        let one = !self.name.is_empty();
        Some(match *method {
            Method::GET if matches!(self.param("watch"), Some("true" | "1")) => "watch",
            Method::GET if one || !matches!(self.target, Target::Resource(_)) => "get",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if one => "delete",
            Method::DELETE => "deletecollection",
            _ => return None,
        })
    }

    /// The first value of a query parameter.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.params(name).next()
    }

    /// All values of a query parameter, in order.
    pub(crate) fn params(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        matches!(self.param(name), Some("true" | "1"))
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.param("dryRun") == Some("All")
    }

    /// The query as a map, for options that repeat those of a body.
    pub(crate) fn query(&self) -> HashMap<&str, &str> {
        self.query
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        method: &Method,
        path: &str,
        query: &str,
    ) -> Option<(Target, &'static str, String, String, String)> {
        let route = Route::parse(method, path, Some(query))?;
        Some((
            route.target,
            route.verb,
            route.namespace,
            route.name,
            route.subresource,
        ))
    }

    #[test]
    fn every_form_of_path() {
        let s = str::to_owned;
        let pods = Target::Resource(Resource::Pod);
        let jobs = Target::Resource(Resource::Job);
        let get = |path| parse(&Method::GET, path, "");
        assert_eq!(get("/api/v1/pods"), Some((pods, "list", s(""), s(""), s(""))));
        assert_eq!(
            get("/api/v1/namespaces/dev/pods"),
            Some((pods, "list", s("dev"), s(""), s("")))
        );
        assert_eq!(
            get("/api/v1/namespaces/dev/pods/p/log"),
            Some((pods, "get", s("dev"), s("p"), s("log")))
        );
        assert_eq!(
            get("/apis/batch/v1/namespaces/dev/jobs/j"),
            Some((jobs, "get", s("dev"), s("j"), s("")))
        );
        let namespace = Target::Resource(Resource::Namespace);
        assert_eq!(
            get("/api/v1/namespaces/dev"),
            Some((namespace, "get", s("dev"), s("dev"), s("")))
        );
        assert_eq!(get("/api/v1/namespaces/dev/nodes/p"), None);
        assert_eq!(get("/version").map(|route| route.0), Some(Target::Version));
        let watch = parse(
            &Method::GET,
            "/api/v1/namespaces/dev/pods",
            "watch=true&labelSelector=a%3Db",
        );
        assert_eq!(watch, Some((pods, "watch", s("dev"), s(""), s(""))));
    }

    #[test]
    fn repeated_parameters_keep_their_order_and_are_decoded() {
        let query = Some("command=%2Fbin%2Fcat&command=-u&command=a+b");
        let route = Route::parse(&Method::GET, "/api/v1/namespaces/dev/pods/p/exec", query).unwrap();
        assert_eq!(
            route.params("command").collect::<Vec<_>>(),
            ["/bin/cat", "-u", "a b"]
        );
    }
}
