//! The rules as tables: flags over files.

use std::time::Duration;

use kube::config::ExecInteractiveMode;

use super::fixture::{Dir, TWO_CONTEXTS, kubeconfig, pem, token};
use super::*;

fn env(dir: &Dir, content: &str) -> Env {
    Env::from_vars([("KUBECONFIG", dir.write("config", content))])
}

fn two_contexts(overrides: &Overrides) -> Result<Resolved, KubeconfigError> {
    let dir = Dir::new();
    resolve(overrides, &env(&dir, TWO_CONTEXTS))
}

#[test]
fn context_cluster_and_user_are_chosen() {
    let some = |text: &str| Some(text.to_owned());
    // context, cluster, user: server, namespace, token, user's label
    let cases = [
        (
            (None, None, None),
            ("https://one:6443/", "dev", Some("ana-token"), Some("ana")),
        ),
        (
            (some("two"), None, None),
            ("https://two/k8s/clusters/c-x", "default", None, Some("boss")),
        ),
        (
            (None, some("cl-2"), None),
            (
                "https://two/k8s/clusters/c-x",
                "dev",
                Some("ana-token"),
                Some("ana"),
            ),
        ),
        (
            (some("two"), None, some("ana")),
            (
                "https://two/k8s/clusters/c-x",
                "default",
                Some("ana-token"),
                Some("ana"),
            ),
        ),
        (
            (some("nobody"), None, None),
            ("https://one:6443/", "default", None, Some("gone")),
        ),
    ];
    for ((context, cluster, user), expected) in cases {
        let overrides = Overrides {
            context,
            cluster,
            user,
            ..Overrides::default()
        };
        let resolved = two_contexts(&overrides).unwrap();
        let config = &resolved.config;
        let actual = (
            config.cluster_url.to_string(),
            config.default_namespace.as_str(),
            token(&config.auth_info),
            resolved.user.as_deref(),
        );
        assert_eq!(
            (actual.0.as_str(), actual.1, actual.2, actual.3),
            expected,
            "{overrides:?}"
        );
        assert_eq!(
            resolved.context.as_deref(),
            overrides.context.as_deref().or(Some("one"))
        );
    }
}

#[test]
fn what_is_missing_is_named() {
    let check = |context: &str, cluster: Option<&str>, user: Option<&str>| {
        let overrides = Overrides {
            context: Some(context.to_owned()),
            cluster: cluster.map(str::to_owned),
            user: user.map(str::to_owned),
            ..Overrides::default()
        };
        two_contexts(&overrides).unwrap_err().to_string()
    };
    assert_eq!(check("three", None, None), "context \"three\" does not exist");
    assert_eq!(
        check("one", Some("three"), None),
        "cluster \"three\" does not exist"
    );
    assert_eq!(
        check("one", None, Some("three")),
        "auth info \"three\" does not exist"
    );
    assert_eq!(check("nowhere", None, None), "cluster \"gone\" does not exist");
    assert_eq!(
        check("empty", None, None),
        "no server found for cluster \"no-server\""
    );
    let wrong = two_contexts(&Overrides {
        context: Some("x".into()),
        ..Overrides::default()
    })
    .unwrap_err();
    let KubeconfigError::ContextNotFound { known, .. } = wrong else {
        panic!("{wrong:?}")
    };
    assert_eq!(known, ["one", "two", "nobody", "nowhere", "empty"]);
}

#[test]
fn nothing_to_go_by_is_an_error() {
    let dir = Dir::new();
    let without = TWO_CONTEXTS.replace("current-context: one", "current-context: ''");
    let error = resolve(&Overrides::default(), &env(&dir, &without)).unwrap_err();
    assert!(matches!(error, KubeconfigError::NoCurrentContext { known } if known.len() == 5));
    let nothing = Env::from_vars::<&str, &str>([]).with_home(dir.path("home"));
    let error = resolve(&Overrides::default(), &nothing).unwrap_err();
    let expected = dir.path("home").join(".kube").join("config");
    assert!(matches!(error, KubeconfigError::NoConfiguration { searched } if searched == [expected]));
}

#[test]
fn a_server_alone_is_enough() {
    let overrides = Overrides {
        server: Some("https://elsewhere:1".into()),
        token: Some("t".to_owned().into()),
        namespace: Some("ns".into()),
        ..Overrides::default()
    };
    let resolved = resolve(&overrides, &Env::from_vars::<&str, &str>([])).unwrap();
    assert_eq!(resolved.config.cluster_url, "https://elsewhere:1/");
    assert_eq!(resolved.config.default_namespace, "ns");
    assert_eq!((resolved.context, resolved.user), (None, None));
}

#[test]
fn flags_about_the_cluster() {
    let dir = Dir::new();
    let ca = dir.write("ca.crt", &pem());
    let of = |context: &str, change: &dyn Fn(&mut Overrides)| {
        let mut overrides = Overrides {
            context: Some(context.to_owned()),
            ..Overrides::default()
        };
        change(&mut overrides);
        resolve(&overrides, &env(&dir, TWO_CONTEXTS)).map(|resolved| resolved.config)
    };
    let plain = of("one", &|_| {}).unwrap();
    assert_eq!(plain.tls_server_name.as_deref(), Some("inside"));
    // The file's server name was meant for the file's server.
    let server = of("one", &|o| o.server = Some("https://other".into())).unwrap();
    assert_eq!(
        (server.cluster_url.host(), server.tls_server_name),
        (Some("other"), None)
    );
    let named = of("one", &|o| o.tls_server_name = Some("flag".into())).unwrap();
    assert_eq!(named.tls_server_name.as_deref(), Some("flag"));

    assert!(of("two", &|_| {}).unwrap().accept_invalid_certs);
    let with_ca = of("two", &|o| o.certificate_authority = Some(ca.clone())).unwrap();
    assert!(!with_ca.accept_invalid_certs && with_ca.root_cert.is_some_and(|ca| ca.len() == 1));
    assert!(
        !of("two", &|o| o.insecure_skip_tls_verify = Some(false))
            .unwrap()
            .accept_invalid_certs
    );
    assert!(
        of("one", &|o| o.insecure_skip_tls_verify = Some(true))
            .unwrap()
            .accept_invalid_certs
    );
    let both = of("one", &|o| {
        o.insecure_skip_tls_verify = Some(true);
        o.certificate_authority = Some(ca.clone());
    });
    assert!(matches!(both, Err(KubeconfigError::InsecureWithCa)));
}

#[test]
fn certificate_authorities() {
    let dir = Dir::new();
    dir.write("ca.crt", &format!("# two\n{}{}", pem(), pem()));
    dir.write(
        "broken.crt",
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
    );
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem());
    let of = |field: &str| {
        let content = kubeconfig("https://h").replace("'https://h'", &format!("'https://h', {field}"));
        resolve(&Overrides::default(), &env(&dir, &content)).map(|resolved| resolved.config.root_cert)
    };
    assert_eq!(of("certificate-authority: ca.crt").unwrap().unwrap().len(), 2);
    assert_eq!(
        of(&format!("certificate-authority-data: {data}"))
            .unwrap()
            .unwrap()
            .len(),
        1
    );
    // Data wins, so that the path may be wrong.
    assert_eq!(
        of(&format!(
            "certificate-authority-data: {data}, certificate-authority: none"
        ))
        .unwrap()
        .unwrap()
        .len(),
        1
    );
    assert_eq!(
        of("certificate-authority-data: '', certificate-authority: ''").unwrap(),
        None
    );
    let failure = |field: &str| match of(field) {
        Err(KubeconfigError::CertificateAuthority(cause)) => cause.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(failure("certificate-authority: none").ends_with("/none"));
    assert_eq!(
        failure("certificate-authority: broken.crt"),
        "no PEM certificate found"
    );
    assert_eq!(
        failure("certificate-authority-data: '!!'"),
        "certificate-authority-data is not base64"
    );
    // Together with "do not check" it would be a false promise.
    let both = of(&format!(
        "insecure-skip-tls-verify: true, certificate-authority-data: {data}"
    ));
    assert!(matches!(both, Err(KubeconfigError::InsecureWithCa)));
}

#[test]
fn a_token_replaces_every_other_way_but_certificates() {
    let dir = Dir::new();
    let content = kubeconfig("https://h").replace(
        "{token: file-token}",
        "{token: a, tokenFile: t, username: u, password: p, client-certificate: c, client-key: k, \
         exec: {apiVersion: client.authentication.k8s.io/v1, command: login}}",
    );
    let overrides = Overrides {
        token: Some("flag".to_owned().into()),
        ..Overrides::default()
    };
    let auth = resolve(&overrides, &env(&dir, &content))
        .unwrap()
        .config
        .auth_info;
    assert_eq!(token(&auth), Some("flag"));
    assert!(
        auth.token_file.is_none()
            && auth.exec.is_none()
            && auth.username.is_none()
            && auth.password.is_none()
    );
    assert!(auth.client_certificate.is_some());
    let overrides = Overrides {
        client_certificate: Some("cc".into()),
        client_key: Some("ck".into()),
        ..Overrides::default()
    };
    let content = content.replace(
        "client-certificate: c,",
        "client-certificate-data: YQ==, client-key-data: YQ==,",
    );
    let auth = resolve(&overrides, &env(&dir, &content))
        .unwrap()
        .config
        .auth_info;
    assert_eq!(
        (auth.client_certificate.as_deref(), auth.client_key.as_deref()),
        (Some("cc"), Some("ck"))
    );
    assert!(auth.client_certificate_data.is_none() && auth.client_key_data.is_none());
}

#[test]
fn impersonation_merges_and_needs_a_user() {
    let overrides = Overrides {
        context: Some("two".into()),
        impersonate_groups: vec!["admins".into(), "ops".into()],
        impersonate_uid: Some("7".into()),
        impersonate_extra: vec![("why".into(), "a".into()), ("why".into(), "b".into())],
        ..Overrides::default()
    };
    let auth = two_contexts(&overrides).unwrap().config.auth_info;
    assert_eq!(auth.impersonate.as_deref(), Some("boss"));
    assert_eq!(auth.impersonate_groups.unwrap(), ["admins", "ops"]);
    assert_eq!(auth.impersonate_uid.as_deref(), Some("7"));
    assert_eq!(auth.impersonate_user_extra.unwrap()["why"], ["a", "b"]);
    let flag = Overrides {
        impersonate: Some("eve".into()),
        ..Overrides::default()
    };
    let resolved = two_contexts(&flag).unwrap();
    assert_eq!(resolved.config.auth_info.impersonate.as_deref(), Some("eve"));
    assert_eq!(resolved.user.as_deref(), Some("eve"));
    let alone = Overrides {
        impersonate_groups: vec!["admins".into()],
        ..Overrides::default()
    };
    assert!(matches!(
        two_contexts(&alone),
        Err(KubeconfigError::ImpersonationWithoutUser)
    ));
}

#[test]
fn servers_get_a_scheme_and_must_be_urls() {
    let of = |server: &str, tls: bool| server_url(server, tls).map(|url| url.to_string()).ok();
    let ok = |url: &str| Some(url.to_owned());
    assert_eq!(
        of("https://h:6443/k8s/clusters/c-x", false),
        ok("https://h:6443/k8s/clusters/c-x")
    );
    assert_eq!(of("http://localhost:8001", true), ok("http://localhost:8001/"));
    assert_eq!(of("h:6443", true), ok("https://h:6443/"));
    assert_eq!(of("h:8080", false), ok("http://h:8080/"));
    assert_eq!(of("[fd00::1]:6443", true), ok("https://[fd00::1]:6443/"));
    for wrong in ["", "https://", "ftp://h", "h h", "https://h:99999999"] {
        assert_eq!(of(wrong, true), None, "{wrong}");
    }
}

#[test]
fn the_proxy_is_ours_to_decide() {
    let env_proxy = [("HTTPS_PROXY", "http://env:3128")];
    let dir = Dir::new();
    let path = dir.write("config", TWO_CONTEXTS);
    let of = |context: &str, vars: &[(&str, &str)]| {
        let overrides = Overrides {
            kubeconfig: Some(path.clone()),
            context: Some(context.to_owned()),
            ..Overrides::default()
        };
        let resolved = resolve(&overrides, &Env::from_vars(vars.iter().copied())).unwrap();
        assert!(
            resolved.config.proxy_url.is_none(),
            "kube's own proxy code must stay out of it"
        );
        resolved.proxy.map(|proxy| proxy.to_string())
    };
    assert_eq!(of("one", &[]), None);
    assert_eq!(of("one", &env_proxy).as_deref(), Some("http://env:3128"));
    assert_eq!(of("one", &[env_proxy[0], ("NO_PROXY", "one,")]), None);
    assert_eq!(of("two", &env_proxy).as_deref(), Some("http://p:1"));
}

#[test]
fn plugins_are_told_about_the_cluster_that_is_used() {
    let dir = Dir::new();
    let content = kubeconfig("https://h")
        .replace(
            "'https://h'",
            "'https://h', extensions: [{name: client.authentication.k8s.io/exec, extension: {audience: a}}]",
        )
        .replace(
            "{token: file-token}",
            "{exec: {command: sub/login, provideClusterInfo: true}}",
        );
    let overrides = Overrides {
        server: Some("https://flag".into()),
        ..Overrides::default()
    };
    let exec = resolve(&overrides, &env(&dir, &content))
        .unwrap()
        .config
        .auth_info
        .exec
        .unwrap();
    let told = exec.cluster.unwrap();
    assert_eq!(told.server.as_deref(), Some("https://flag"));
    assert_eq!(told.config.unwrap()["audience"], "a");
    assert_eq!(exec.command.as_deref(), dir.path("sub/login").to_str());
    assert_eq!(exec.interactive_mode, Some(ExecInteractiveMode::Never));
}

#[test]
fn kubes_own_time_outs_and_retries_are_off() {
    let overrides = Overrides {
        request_timeout: Some(Duration::from_secs(7)),
        ..Overrides::default()
    };
    let resolved = two_contexts(&overrides).unwrap();
    let config = resolved.config;
    assert_eq!(
        (config.read_timeout, config.write_timeout, config.default_retry),
        (None, None, false)
    );
    assert_eq!(resolved.request_timeout, Some(Duration::from_secs(7)));
}
