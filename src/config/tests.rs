//! Every option of every command, through every layer.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::layers::{self, Effective, Kind, Origin, variable};
use super::view::view;
use super::*;
use crate::cli::Command as Verb;

/// A folder with a configuration file, and variables.
struct World {
    folder: tempfile::TempDir,
    vars: Vec<(String, String)>,
}

impl World {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("kubectl-tunnel")).unwrap();
        std::fs::write(folder.path().join("kubectl-tunnel/config.yaml"), file).unwrap();
        Self {
            folder,
            vars: Vec::new(),
        }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("kubectl-tunnel/config.yaml")
    }

    fn env(&self) -> Env {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let vars = self.vars.iter().cloned();
        Env::from_vars(vars.chain([("XDG_CONFIG_HOME".to_owned(), folder)])).with_home("/home/me")
    }

    fn parse(&self, words: &[&str]) -> Result<Parsed, Stop> {
        let words = ["kubectl-tunnel"].iter().chain(words).map(OsString::from);
        parse(words, &self.env())
    }

    fn error(&self, words: &[&str]) -> String {
        match self.parse(words) {
            Err(Stop::Config(error)) => {
                let text = error.to_string();
                text.replace(self.file().to_str().unwrap(), "config.yaml")
            }
            Err(Stop::Clap(error)) => panic!("{error}"),
            Ok(parsed) => panic!("{parsed:?}"),
        }
    }
}

/// The definition, built once: that takes a while.
static ROOT: LazyLock<Command> = LazyLock::new(|| {
    let mut root = layers::with_kubectls_booleans(cli::command());
    root.build();
    root
});

fn parse_words(words: &[String]) -> Result<ArgMatches, clap::Error> {
    let words = std::iter::once("kubectl-tunnel").chain(words.iter().map(String::as_str));
    ROOT.clone().try_get_matches_from(words)
}

/// Every command that runs something, with the words that make it complete.
fn leaves(command: &Command, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, Vec<String>)>) {
    for sub in layers::commands(command) {
        path.push(sub.get_name().to_owned());
        if sub.has_subcommands() {
            leaves(sub, path, found);
        } else {
            let mut words = path.clone();
            if let Err(error) = parse_words(&words) {
                assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument, "{error}");
                words.push("80".to_owned());
            }
            found.push((path.clone(), words));
        }
        path.pop();
    }
}

/// Three values that an option takes, for the file, a variable, and the command line. They differ if it takes several.
fn values(arg: &Arg) -> [String; 3] {
    let name = arg.get_long().unwrap();
    if Kind::of(arg) == Kind::Bool {
        return ["true", "false", "true"].map(str::to_owned);
    }
    let possible = arg.get_possible_values();
    if let (Some(first), Some(last)) = (possible.first(), possible.last()) {
        let (first, last) = (first.get_name().to_owned(), last.get_name().to_owned());
        return [first.clone(), last, first];
    }
    if !matches!(
        arg.get_value_hint(),
        clap::ValueHint::Unknown | clap::ValueHint::Other
    ) {
        return ["/a", "/b", "/c"].map(str::to_owned);
    }
    let candidates = [
        ["1", "2", "3"],
        ["11s", "12s", "13s"],
        ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"],
        ["127.0.0.1", "127.0.0.2", "127.0.0.3"],
        ["a=1", "b=2", "c=3"],
        ["one", "two", "three"],
        ["true", "false", "true"],
    ];
    let fits = |value: &str| {
        let mut alone = Arg::new("alone")
            .long("alone")
            .value_parser(arg.get_value_parser().clone());
        if arg.get_num_args().is_some_and(|range| range.min_values() == 0) {
            alone = alone.num_args(0..=1).require_equals(true);
        }
        let command = Command::new("test").no_binary_name(true).arg(alone);
        command.try_get_matches_from([format!("--alone={value}")]).is_ok()
    };
    let fitting = candidates
        .into_iter()
        .find(|values| values.iter().all(|value| fits(value)));
    fitting
        .unwrap_or_else(|| panic!("--{name}: a form of value that this test has no example of"))
        .map(str::to_owned)
}

/// The layers of a world over a command line, for one option: what it is set to, and that clap gives the command that.
/// `typed` is what parsing the line gave: that takes long.
fn effective(
    world: &World,
    path: &[String],
    line: &[String],
    typed: &BTreeMap<String, Vec<String>>,
    arg: &Arg,
) -> Effective {
    let option = arg.get_long().unwrap();
    let layers = Layers::load(None, None, &world.env(), &ROOT).unwrap();
    let all = layers::effective(&layers, typed, &ROOT, path).unwrap();
    let words = std::iter::once("kubectl-tunnel").chain(line.iter().map(String::as_str));
    let matches = layers::with_defaults(ROOT.clone(), path, &all)
        .try_get_matches_from(words)
        .unwrap();
    let one = all.into_iter().find(|one| one.option == option).unwrap();
    let (_, leaf) = chosen(&matches);
    let raw = leaf.get_raw(arg.get_id().as_str()).into_iter().flatten();
    let raw: Vec<&str> = raw.filter_map(OsStr::to_str).collect();
    // A number of times is counted, not kept.
    if !matches!((arg.get_action(), &one.origin), (ArgAction::Count, Origin::Flag)) {
        assert_eq!(raw, one.values, "{line:?} --{option}");
    }
    one
}

#[test]
fn every_option_of_every_command_goes_through_every_layer() {
    let mut all = Vec::new();
    leaves(&ROOT, &mut Vec::new(), &mut all);
    assert!(all.len() > 5);
    for (path, words) in all {
        let command = layers::find(&ROOT, &path).unwrap();
        for arg in command.get_arguments() {
            if let Some(option) = layers::takes_part(arg) {
                let what = format!("{} --{option}", path.join(" "));
                goes_through_every_layer(&what, &path, &words, arg, option);
            }
        }
    }
}

fn goes_through_every_layer(what: &str, path: &[String], words: &[String], arg: &Arg, option: &str) {
    let [in_file, in_variable, on_line] = values(arg);
    let top = format!("{option}: \"{in_file}\"\n");
    let names = path.iter().map(|name| format!("{name}:\n"));
    let lines = names.chain([top.clone()]).enumerate();
    let indented: Vec<String> = lines.map(|(depth, line)| "  ".repeat(depth) + &line).collect();
    let section = indented.concat();
    let profile = section.replace('\n', "\n    ");
    let profile = format!("{top}profile: work\nprofiles:\n  work:\n    {profile}");
    let depth = u64::try_from(path.len()).unwrap();
    let nothing = BTreeMap::new();

    for (text, line) in [(&top, 1), (&section, depth + 1), (&profile, depth + 5)] {
        let world = World::new(text);
        let one = effective(&world, path, words, &nothing, arg);
        assert_eq!(one.values, std::slice::from_ref(&in_file), "{what}\n{text}");
        let expected = format!("{}:{line}", world.file().display());
        assert_eq!(one.origin.to_string(), expected, "{what}\n{text}");
    }
    let world = World::new(&profile).with(&variable(option), &in_variable);
    let one = effective(&world, path, words, &nothing, arg);
    assert_eq!(one.values, std::slice::from_ref(&in_variable), "{what}");
    assert_eq!(one.origin, Origin::Variable(variable(option)), "{what}");

    let flag = format!("--{option}");
    let typed = if matches!(arg.get_action(), ArgAction::Count) {
        vec![flag; on_line.parse().unwrap()]
    } else {
        vec![format!("{flag}={on_line}")]
    };
    let beside = |words: &[String]| -> Vec<String> { words.iter().chain(&typed).cloned().collect() };
    // Some options stand for the words, some need another option, which nothing here knows.
    let lines = [beside(words), beside(path)];
    let parsed = lines
        .iter()
        .find_map(|line| Some((line, parse_words(line).ok()?)));
    let Some((line, matches)) = parsed else {
        let error = parse_words(&lines[0]).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::MissingRequiredArgument,
            "{what}: {error}"
        );
        return;
    };
    let one = effective(&world, path, line, &super::typed(&matches, &ROOT), arg);
    assert_eq!(one.origin, Origin::Flag, "{what}");
    if !matches!(arg.get_action(), ArgAction::Count) {
        assert_eq!(one.values, [on_line], "{what}");
    }
}

#[test]
fn values_reach_the_command() {
    let world = World::new(
        "namespace: top\nquiet: 2\nproxy:\n  namespace: mine\n  listen: [127.0.0.1:1, 127.0.0.1:2]\n  keep: true\n",
    )
    .with("KUBECTL_TUNNEL_GRACE", "44s");
    let parsed = world.parse(&["proxy"]).unwrap();
    assert_eq!(parsed.cli.kube.namespace.as_deref(), Some("mine"));
    assert_eq!(parsed.cli.output.quiet, 2);
    let Verb::Proxy(arguments) = parsed.cli.command else {
        panic!()
    };
    assert_eq!(arguments.proxy.listen.len(), 2);
    assert!(arguments.session.agent.keep);
    assert_eq!(arguments.session.agent.grace, Some(Duration::from_secs(44)));
    assert!(!parsed.settings.typed("namespace") && !parsed.settings.typed("keep"));

    let parsed = world
        .parse(&[
            "proxy",
            "--keep=false",
            "--listen",
            "127.0.0.1:3",
            "-n",
            "n",
            "-q",
        ])
        .unwrap();
    assert_eq!(parsed.cli.kube.namespace.as_deref(), Some("n"));
    assert_eq!(parsed.cli.output.quiet, 1);
    assert!(parsed.settings.typed("listen"));
    let Verb::Proxy(arguments) = parsed.cli.command else {
        panic!()
    };
    assert_eq!(arguments.proxy.listen.len(), 1);
    assert!(!arguments.session.agent.keep);

    let parsed = world.parse(&["version"]).unwrap();
    assert_eq!(parsed.cli.kube.namespace.as_deref(), Some("top"));
}

#[test]
fn a_profile_is_chosen_by_flag_variable_or_file() {
    let file = "namespace: top\nprofile: a\nprofiles:\n  a: {namespace: a}\n  b: {namespace: b}\n  c:\n";
    let namespace = |world: &World, words: &[&str]| world.parse(words).unwrap().cli.kube.namespace.unwrap();
    let world = World::new(file);
    assert_eq!(namespace(&world, &["version"]), "a");
    assert_eq!(namespace(&world, &["version", "--profile=c"]), "top");
    let world = World::new(file).with("KUBECTL_TUNNEL_PROFILE", "b");
    assert_eq!(namespace(&world, &["version"]), "b");
    assert_eq!(namespace(&world, &["--profile", "a", "version"]), "a");
    assert_eq!(
        world.error(&["version", "--profile=d"]),
        "profile `d` is not in config.yaml; it has a, b, c"
    );
}

#[test]
fn a_named_file_replaces_the_users_own() {
    let world = World::new("namespace: own\n");
    let other = world.folder.path().join("other.yaml");
    std::fs::write(&other, "kubeconfig: sub/k\nclient-key: ~/key\ncontext: x\n").unwrap();
    let other = other.to_str().unwrap();
    let kube = world.parse(&["version", "--config", other]).unwrap().cli.kube;
    assert_eq!(kube.namespace, None);
    assert_eq!(
        kube.kubeconfig.as_deref(),
        Some(&*world.folder.path().join("sub/k"))
    );
    assert_eq!(kube.client_key.as_deref(), Some(Path::new("/home/me/key")));
    let world = world.with("KUBECTL_TUNNEL_CONFIG", other);
    assert_eq!(
        world.parse(&["version"]).unwrap().cli.kube.context.as_deref(),
        Some("x")
    );
    let missing = world.error(&["version", "--config", "/nonexistent/c.yaml"]);
    assert_eq!(missing, "read the configuration /nonexistent/c.yaml");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn mistakes_are_told_with_their_place() {
    for (file, words, expected) in [
        (
            "\ngrase: 1m\n",
            &["version"][..],
            "config.yaml:2: unknown key `grase`; did you mean `grace`?",
        ),
        (
            "proxy:\n  lisen: a\n",
            &["version"],
            "config.yaml:2: unknown key `lisen`; did you mean `listen`?",
        ),
        (
            "poxy:\n  listen: a\n",
            &["version"],
            "config.yaml:1: unknown key `poxy`; did you mean `proxy`?",
        ),
        (
            "profiles:\n  a:\n    x: 1\n",
            &["version"],
            "config.yaml:3: unknown key `x`; keys are",
        ),
        (
            "cleanup:\n  listen: a\n",
            &["version"],
            "config.yaml:2: `cleanup` has no option --listen; these have: proxy, expose",
        ),
        (
            "token: secret\n",
            &["version"],
            "config.yaml:1: `token` is a secret",
        ),
        (
            "proxy:\n  profile: a\n",
            &["version"],
            "config.yaml:2: `profile` cannot be chosen here",
        ),
        (
            "config: a\n",
            &["version"],
            "config.yaml:1: `config` cannot be chosen here",
        ),
        (
            "help: true\n",
            &["version"],
            "config.yaml:1: `help` is for the command line alone",
        ),
        (
            "cleanup: yes please\n",
            &["version"],
            "config.yaml:1: `cleanup` is a command",
        ),
        (
            "grace: [1s]\n",
            &["version"],
            "config.yaml:1: `grace` takes one value, not a list",
        ),
        ("grace:\n", &["version"], "config.yaml:1: `grace` is empty"),
        ("listen: []\n", &["version"], "config.yaml:1: `listen` is empty"),
        (
            "listen: {a: b}\n",
            &["version"],
            "config.yaml:1: `listen` is a map",
        ),
        (
            "- a\n",
            &["version"],
            "config.yaml:1: the file is a list, not a map of options",
        ),
        (
            "profile: [a]\n",
            &["version"],
            "config.yaml:1: `profile` is a list",
        ),
        ("a: b: c\n", &["version"], "config.yaml: "),
        (
            "context: x\ngrace: soon\n",
            &["proxy"],
            "config.yaml:2: invalid value 'soon' for '--grace <DURATION>': not a duration",
        ),
        (
            "transport: exek\n",
            &["proxy"],
            "config.yaml:1: invalid value 'exek' for '--transport <WAY>'; [possible values: auto, exec",
        ),
        (
            "keep: perhaps\n",
            &["proxy"],
            "config.yaml:1: invalid value 'perhaps' for '--keep",
        ),
        (
            "quiet: much\n",
            &["proxy"],
            "config.yaml:1: invalid value 'much' for '--quiet",
        ),
        (
            "agent-image: a\nbase-image: b\n",
            &["proxy"],
            "config.yaml:2: `base-image` cannot be used with `agent-image`",
        ),
    ] {
        let error = World::new(file).error(words);
        assert!(error.starts_with(expected), "{file}\n{error}\n{expected}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn variables_are_named_and_secrets_refused() {
    let world = World::new("").with("KUBECTL_TUNNEL_GRACE", "soon");
    assert!(
        world
            .error(&["proxy"])
            .starts_with("KUBECTL_TUNNEL_GRACE: invalid value 'soon'")
    );
    // Of another command it is nobody's business, and a flag is stronger.
    world.parse(&["version"]).unwrap();
    world.parse(&["proxy", "--grace=5s"]).unwrap();
    let world = World::new("").with("KUBECTL_TUNNEL_TOKEN", "hunter2");
    let error = world.error(&["version"]);
    assert!(
        error.starts_with("KUBECTL_TUNNEL_TOKEN is a secret") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn what_excludes_a_higher_value_gives_way() {
    let world = World::new("agent-image: a\n");
    let parse = |world: &World, words: &[&str]| {
        let Verb::Proxy(arguments) = world.parse(words).unwrap().cli.command else {
            panic!("{words:?}")
        };
        arguments.session.agent
    };
    let agent = parse(&world, &["proxy", "--base-image=b"]);
    assert_eq!((agent.agent_image, agent.base_image.as_str()), (None, "b"));
    let agent = parse(&world.with("KUBECTL_TUNNEL_BASE_IMAGE", "c"), &["proxy"]);
    assert_eq!((agent.agent_image, agent.base_image.as_str()), (None, "c"));
}

#[test]
fn what_excludes_typed_words_gives_way() {
    let world = World::new("").with("KUBECTL_TUNNEL_ALL", "true");
    let Verb::Stop(arguments) = world.parse(&["stop", "x7k2p9"]).unwrap().cli.command else {
        panic!()
    };
    assert!(!arguments.all && arguments.ids == ["x7k2p9"]);
}

#[test]
fn several_values_of_a_variable_have_a_line_each() {
    let world = World::new("").with("KUBECTL_TUNNEL_ALLOW_FROM", "app=web,tier!=db\n10.0.0.0/8\n");
    let Verb::Expose(arguments) = world.parse(&["expose", "80"]).unwrap().cli.command else {
        panic!()
    };
    assert_eq!(arguments.flags.allow_from, ["app=web,tier!=db", "10.0.0.0/8"]);
}

#[test]
fn help_comes_whatever_the_file_says() {
    let world = World::new("nonsense: [");
    for words in [&["--help"][..], &["proxy", "-h"], &["--version"]] {
        match world.parse(words) {
            Err(Stop::Clap(error)) => {
                assert!(!error.use_stderr());
                assert!(!error.to_string().contains("--keep["), "{words:?}");
            }
            Err(Stop::Config(error)) => panic!("{error}"),
            Ok(parsed) => panic!("{parsed:?}"),
        }
    }
}

#[test]
fn what_is_viewed_can_be_read_back() {
    let file = "profile: work\nprofiles:\n  work:\n    context: \"yes\"\nproxy:\n  listen: [\"[::1]:7\", localhost:8]\n  \
                keep: true\nforward: {via: pod}\n";
    let world = World::new(file)
        .with("KUBECTL_TUNNEL_NAMESPACE", "dev")
        .with("KUBECTL_TUNNEL_GRAZE", "1s");
    let settings = world.parse(&["config", "view", "--user=me"]).unwrap().settings;
    let seen = view(&settings).unwrap();
    assert_eq!(
        seen.warnings,
        ["the variable KUBECTL_TUNNEL_GRAZE sets no option; did you mean KUBECTL_TUNNEL_GRACE?"]
    );
    let place = world.file().display().to_string();
    let text = seen.yaml(true);
    for line in [
        format!("# file: {place}"),
        "# profile: work".to_owned(),
        "namespace: dev  # KUBECTL_TUNNEL_NAMESPACE".to_owned(),
        format!("context: \"yes\"  # {place}:4"),
        "user: me  # flag".to_owned(),
        "# cluster:  # not set".to_owned(),
        "proxy:".to_owned(),
        format!("  listen: [\"[::1]:7\", \"localhost:8\"]  # {place}:6"),
        format!("  keep: true  # {place}:7"),
        "  cluster-domain: cluster.local  # default".to_owned(),
        "  udp-idle: 60s  # default".to_owned(),
        format!("  via: pod  # {place}:8"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let json = seen.json(true);
    assert_eq!(json["context"]["line"], 4);
    assert_eq!(json["user"], serde_json::json!({"value": "me", "origin": "flag"}));
    assert_eq!(json["proxy"]["keep"]["value"], true);
    assert_eq!(
        seen.json(false)["proxy"]["listen"],
        serde_json::json!(["[::1]:7", "localhost:8"])
    );

    let again = World::new(&seen.yaml(false));
    let settings = again.parse(&["config", "view"]).unwrap().settings;
    assert_eq!(view(&settings).unwrap().json(false), seen.json(false));
}
