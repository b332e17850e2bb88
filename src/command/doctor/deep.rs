//! `doctor --deep`: one real session, measured and removed.
//!
//! It decides what is well and what is not, and says so. The session's life is [`trial`]'s, what is measured
//! [`measure`]'s and [`volume`]'s. Called once the other checks have found nothing that keeps a session from starting.
//!
//! ```text
//!   start -> probe -> round-trip -> dns -> throughput -> removal
//!     |        |          |          |         |            ^
//!     '--------'----------'----------'---------'------------' whatever happens
//! ```

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use tunnel_wire::RefusalCode;
use tunnel_wire::link::LinkHandle;
use tunnel_wire::probe::PROBE_LENGTH;

use super::super::Context;
use super::super::tunnel::Plan;
use super::super::tunnel::trial::{self, Fate, Ground, Subject, Timeline, Trial};
use super::super::words::step_text;
use super::report::{Check, State};
use super::{Reached, not_checked};
use crate::cli::SessionFlags;
use crate::cli::doctor_args::DoctorArgs;
use crate::cluster::client::ApiServer;
use crate::cluster::end::Ending;
use crate::cluster::options::{AgentOptions, TransportChoice};
use crate::cluster::start::StartStep;
use crate::cluster::watch;
use crate::error::Error;
use crate::program;
use crate::session::Way;

mod measure;
mod volume;

use self::measure::{Named, Pings};
use self::volume::{NoVolume, Volume};

/// The checks between start and removal, in their order.
const IN_SESSION: [&str; 4] = ["probe", "round-trip", "dns", "throughput"];

/// A start that takes longer is worth a word: with the image on the node it takes 0.6 s at any round trip, and twice
/// that on a busy machine.
const USUAL_START: Duration = Duration::from_secs(5);

/// A name that takes longer was asked of a name server that did not answer: those are given up after 5 s.
const USUAL_DNS: Duration = Duration::from_secs(1);

/// How long a connection that is lost meanwhile may stay so.
const RECONNECT_MAX: Duration = Duration::from_secs(15);

/// The lines of a session. `None` when the user asked for the end.
pub(super) async fn run(
    checks: &[Check],
    options: Option<AgentOptions>,
    reached: Option<Reached>,
    arguments: &DoctorArgs,
    context: &Context,
) -> Result<Option<Vec<Check>>, Error> {
    let (Some(options), Some((access, server)), None) = (options, reached, in_the_way(checks)) else {
        let reason = in_the_way(checks).unwrap_or_else(|| "there is no server to ask".to_owned());
        let mut deep = vec![Check::not_checked("start", &reason)];
        deep.extend(not_checked(&IN_SESSION, &reason));
        deep.push(Check::not_checked("removal", &reason));
        return Ok(Some(deep));
    };
    let session = SessionFlags {
        ready_file: None,
        detach: false,
        metrics: None,
        reconnect_max: RECONNECT_MAX,
        transport_max_age: None,
        agent: arguments.agent.clone(),
    };
    let plan = Plan {
        verb: "doctor",
        proxy: None,
        expose: None,
        forward: None,
        session: &session,
        on_demand: None,
    };
    let ground = Ground {
        plan: &plan,
        options,
        access: &access,
        server: &server,
    };
    let namespace = server.namespace();
    let mut findings = Findings {
        may_move: ground.options.transport == TransportChoice::Auto,
        ..Findings::default()
    };
    let measure = async |subject: Subject| examine(subject, &server, context, &mut findings).await;
    let trial = trial::run(ground, context, measure).await?;
    Ok(trial.map(|trial| lines(&trial, findings, namespace)))
}

/// What was found so far: the session may end at any moment.
#[derive(Default)]
struct Findings {
    checks: Vec<Check>,
    /// Of the session, for what is known about its probe.
    link: Option<LinkHandle>,
    /// Whether the session may go over to port-forward.
    may_move: bool,
}

/// What keeps a session from starting.
fn in_the_way(checks: &[Check]) -> Option<String> {
    let failed = checks.iter().filter(|check| check.state == State::Failure);
    let names: Vec<&str> = failed.map(|check| check.name).collect();
    (!names.is_empty()).then(|| format!("no session can start, see {}", names.join(", ")))
}

/// Measures one thing after the other.
async fn examine(subject: Subject, server: &ApiServer, context: &Context, findings: &mut Findings) {
    let Subject {
        session,
        incoming,
        link,
        standing,
        agent,
    } = subject;
    findings.link = Some(link.clone());
    let namespace = server.namespace();
    let step = |text: &str| context.printer.step(text);
    step("waiting for the probe of the connection");
    let whole = measure::probe(&link).await;
    let reconnects = standing.traffic().totals().reconnects;
    findings
        .checks
        .push(probe_check(whole, link.probe_echoed(), reconnects));
    if !whole {
        return;
    }
    if findings.may_move && agent.port_forward {
        // Half a second after its start it is where it stays.
        measure::moved(&standing).await;
    }
    step("measuring the round trip");
    findings.checks.push(round_trip_check(
        measure::round_trip(&session).await,
        standing.way(),
    ));
    step("resolving a name in the pod");
    findings
        .checks
        .push(dns_check(measure::dns(&session).await, namespace));
    step("measuring the throughput");
    let before = standing.way();
    let volume = match watch::pod_address(server, &agent, measure::PATIENCE).await {
        Ok(Some(address)) => volume::measure(&session, incoming, &link, address).await,
        Ok(None) => Err(NoVolume::Setup("the pod has no address yet".to_owned())),
        Err(error) => Err(NoVolume::Setup(error.to_string())),
    };
    let ways = [before, standing.way()];
    findings.checks.push(throughput_check(volume, ways));
}

/// All lines of a session that is over.
fn lines(trial: &Trial, findings: Findings, namespace: &str) -> Vec<Check> {
    let Findings { checks, link, .. } = findings;
    let done = checks.len();
    let mut all = vec![start_check(trial, namespace)];
    all.extend(checks);
    let mut missing = IN_SESSION.iter().copied().skip(done);
    match &trial.fate {
        Fate::Used => {
            all.extend(missing.map(|name| Check::not_checked(name, "the probe did not come back")));
        }
        Fate::NotStarted(_) => {
            all.extend(missing.map(|name| Check::not_checked(name, "no session started")));
        }
        Fate::Lost(reason) => {
            all.extend(missing.next().map(|name| lost_check(name, reason, link.as_ref())));
            all.extend(missing.map(|name| Check::not_checked(name, "the session ended")));
        }
    }
    all.push(removal_check(trial, namespace));
    all
}

fn start_check(trial: &Trial, namespace: &str) -> Check {
    let Some(took) = trial.timeline.took() else {
        return match &trial.fate {
            Fate::NotStarted(error) => Check::failed("start", error, namespace),
            Fate::Lost(reason) => Check::failure("start", reason.as_str()),
            Fate::Used => Check::not_checked("start", "it was not seen"),
        };
    };
    start_took(took, &trial.timeline, namespace)
}

fn start_took(took: Duration, timeline: &Timeline, namespace: &str) -> Check {
    let numbers = json!({"seconds": rounded(took.as_secs_f64(), 3)});
    let message = format!("ready {} after the first request", seconds(took));
    let longest = timeline.longest().filter(|_| took > USUAL_START);
    let Some((step, longest)) = longest else {
        return Check::ok("start", message).measured(numbers);
    };
    let doing = step.map_or_else(|| "attaching".to_owned(), |step| step_text(step, namespace));
    let check = Check::warning("start", format!("{message}, {} of it {doing}", seconds(longest)));
    let check = check.measured(numbers);
    match step {
        Some(StartStep::Pulling { .. }) => check.with_hint(
            "the next start on that node finds the image; `--base-image` names one that is nearer",
        ),
        Some(StartStep::Creating) => {
            check.with_hint("the agent is 0.9 MB to send; `--agent-image` has the node fetch it instead")
        }
        Some(StartStep::Scheduling | StartStep::Starting | StartStep::FollowingPolicy { .. }) => check
            .with_hint(format!(
                "see what the cluster did: `kubectl get events -n {namespace}`"
            )),
        Some(StartStep::CheckingRights) | None => {
            check.with_hint("see how long the server takes to answer: `kubectl get --raw /readyz -v=6`")
        }
    }
}

/// The session ended during this check.
fn lost_check(name: &'static str, reason: &str, link: Option<&LinkHandle>) -> Check {
    let check = |text: String| Check::failure(name, text).with_hint(PATH_HINT);
    match link.filter(|link| link.path_unchecked()) {
        Some(link) => check(format!("{reason}; {}", echoed_text(link.probe_echoed()))),
        None => Check::failure(name, format!("the session ended meanwhile: {reason}"))
            .with_hint(format!("run `{} doctor --deep` again", program::name())),
    }
}

const PATH_HINT: &str = "something between here and the node harms what passes through exec, such as a proxy or a \
                         recorder of sessions: try without it";

fn echoed_text(echoed: u32) -> String {
    format!("{echoed} of the probe's {PROBE_LENGTH} bytes came back")
}

fn probe_check(whole: bool, echoed: u32, reconnects: u64) -> Check {
    if !whole {
        let waited = seconds(measure::PROBE_PATIENCE);
        return Check::failure("probe", format!("{} within {waited}", echoed_text(echoed)))
            .with_hint(PATH_HINT);
    }
    let passed = format!("{PROBE_LENGTH} bytes went to the agent and back as they were");
    if reconnects == 0 {
        return Check::ok("probe", passed);
    }
    Check::warning(
        "probe",
        format!("{passed}, but the connection was lost before ({reconnects} times)"),
    )
    .with_hint(PATH_HINT)
}

fn round_trip_check(pings: Result<Pings, String>, way: Option<Way>) -> Check {
    let pings = match pings {
        Ok(pings) => pings,
        Err(reason) => return Check::not_checked("round-trip", &reason),
    };
    let (median, least, most) = pings.figures();
    let text = format!(
        "{} to the agent and back over {}, the median of {} ({} to {})",
        millis(median),
        ways_text([way; 2]),
        pings.count(),
        millis(least),
        millis(most)
    );
    let number = |time: Duration| rounded(time.as_secs_f64() * 1000.0, 2);
    Check::ok("round-trip", text).measured(json!({
        "medianMs": number(median), "leastMs": number(least), "mostMs": number(most),
    }))
}

fn dns_check(named: Named, namespace: &str) -> Check {
    let name = measure::NAME;
    let Named { answer, took } = named;
    let numbers = json!({"ms": rounded(took.as_secs_f64() * 1000.0, 2)});
    let took_text = format!("in {}, a round trip included", millis(took));
    let resolved = |address: Option<IpAddr>| {
        let address = address.map_or_else(|| "an address".to_owned(), |address| address.to_string());
        format!("the pod resolves {name} to {address} {took_text}")
    };
    let policies = format!(
        "the pod gets no answer from the cluster's DNS: a policy that forbids egress to port 53 may be why, see \
         `kubectl get networkpolicies -n {namespace}`"
    );
    let service = "see whether the cluster's DNS runs: `kubectl get pods -n kube-system -l k8s-app=kube-dns`";
    match answer {
        Ok(address) if took > USUAL_DNS => Check::warning("dns", resolved(address))
            .with_hint(format!("a name server does not answer; {service}"))
            .measured(numbers),
        Ok(address) => Check::ok("dns", resolved(address)).measured(numbers),
        Err(refusal) => {
            let text = format!("the pod cannot resolve {name}: {refusal}");
            match refusal.code() {
                RefusalCode::NoSuchHost => Check::failure("dns", text).with_hint(format!(
                    "the pod asks another DNS than the cluster's, or that knows nothing: leave `dnsPolicy` out of \
                     `--patch`, and {service}"
                )),
                RefusalCode::ResolveFailed | RefusalCode::TimedOut => {
                    Check::failure("dns", text).with_hint(policies)
                }
                RefusalCode::NotAllowed
                | RefusalCode::Unreachable
                | RefusalCode::ConnectionRefused
                | RefusalCode::ResourceExhausted
                | RefusalCode::TooManyStreams
                | RefusalCode::AddressInUse
                | RefusalCode::ShuttingDown
                | RefusalCode::Unsupported
                | RefusalCode::Other => {
                    Check::warning("dns", format!("{name} was resolved {took_text}, but: {refusal}"))
                }
            }
        }
    }
}

fn throughput_check(volume: Result<Volume, NoVolume>, ways: [Option<Way>; 2]) -> Check {
    let volume = match volume {
        Ok(volume) => volume,
        Err(NoVolume::Setup(reason)) => return Check::not_checked("throughput", &reason),
        Err(altered @ NoVolume::Altered { .. }) => {
            return Check::failure("throughput", altered.to_string()).with_hint(PATH_HINT);
        }
    };
    let Volume { up, down, .. } = &volume;
    let text = format!(
        "up {}, down {} over {}: {} went up in {}, waited in the pod, then {} came down in {}; all {} that came back \
         were as they were sent",
        up.text(),
        down.text(),
        ways_text(ways),
        mebibytes(up.bytes),
        seconds(up.time),
        mebibytes(down.bytes),
        seconds(down.time),
        mebibytes(volume.verified),
    );
    let check = if volume.verified == 0 {
        Check::warning("throughput", "nothing of what was sent came back in time")
            .with_hint("see how the connection is doing: `kubectl get --raw /readyz -v=6`")
    } else {
        Check::ok("throughput", text)
    };
    check.measured(json!({
        "upMiBps": rounded(up.rate(), 3), "upBytes": up.bytes,
        "downMiBps": rounded(down.rate(), 3), "downBytes": down.bytes,
        "verifiedBytes": volume.verified,
    }))
}

/// What carried the session, at first and at last.
fn ways_text(ways: [Option<Way>; 2]) -> String {
    match ways {
        [Some(first), Some(last)] if first != last => format!("{}, then {}", first.as_str(), last.as_str()),
        [Some(way), _] | [None, Some(way)] => way.as_str().to_owned(),
        [None, None] => "a connection that was lost".to_owned(),
    }
}

fn removal_check(trial: &Trial, namespace: &str) -> Check {
    let Some((ending, took)) = &trial.removal else {
        return Check::not_checked("removal", "the session is another process's");
    };
    if let Some(kept) = trial.kept.first() {
        let remove = format!("remove it with `{}`", ending.removal_command());
        return Check::not_checked("removal", &format!("--keep keeps {kept} for an hour")).with_hint(remove);
    }
    gone_check(ending, *took, trial.id.as_str(), namespace)
}

fn gone_check(ending: &Ending, took: Duration, id: &str, namespace: &str) -> Check {
    if !ending.is_clean() {
        let why = ending.error.as_ref().map(|error| format!(" ({error})"));
        let text = format!(
            "{ending}, {} after the end{}",
            seconds(took),
            why.unwrap_or_default()
        );
        let (program, remove) = (program::name(), ending.removal_command());
        return Check::failure("removal", text).with_hint(format!(
            "it goes by itself, or with `{program} cleanup -n {namespace}` or `{remove}`"
        ));
    }
    if let Some(error) = &ending.error {
        return Check::failed("removal", &Error::Api(error.clone()), namespace);
    }
    if ending.unseen.is_empty() {
        let text = format!(
            "nothing of session {id} is left in namespace {namespace}, {} after the end",
            seconds(took)
        );
        return Check::ok("removal", text).measured(json!({"seconds": rounded(took.as_secs_f64(), 3)}));
    }
    let kinds: Vec<String> = ending.unseen.iter().map(|kind| format!("{kind}s")).collect();
    let kinds = kinds.join(" and ");
    Check::not_allowed(
        "removal",
        &format!("the {kinds} of session {id}, which go with its job; all else of it is gone"),
    )
}

fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (number * scale).round() / scale
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[expect(clippy::cast_precision_loss, reason = "some mebibytes")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MEBIBYTE)
}

/// Bytes.
const MEBIBYTE: f64 = 1024.0 * 1024.0;

#[cfg(test)]
mod tests;
