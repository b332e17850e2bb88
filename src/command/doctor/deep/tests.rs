//! What is said about a session's measurements.

use tokio::time::Instant;
use tunnel_wire::{OpenError, Refusal};

use super::super::report;
use super::*;
use crate::cluster::names::{ObjectRef, SessionId};

fn millis_of(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A start of two steps: this one, and the attach.
fn timeline(step: &StartStep, took: u64, attach: u64) -> Timeline {
    let began = Instant::now();
    let mut timeline = Timeline::start(began);
    timeline.step(Some(step), began);
    timeline.step(None, began + millis_of(took));
    timeline.ready(began + millis_of(took + attach));
    timeline
}

fn start(step: &StartStep, took: u64, attach: u64) -> Check {
    let timeline = timeline(step, took, attach);
    start_took(timeline.took().unwrap(), &timeline, "dev")
}

#[test]
fn a_slow_start_names_its_slow_part_and_what_to_do() {
    let quick = start(&StartStep::Starting, 600, 100);
    assert_eq!(
        (quick.state, quick.message.as_str()),
        (State::Ok, "ready 0.70 s after the first request")
    );
    assert_eq!(quick.measured, Some(json!({"seconds": 0.7})));
    let image = "registry.example/pause:3".to_owned();
    let pulling = start(&StartStep::Pulling { image }, 12_000, 200);
    assert_eq!(pulling.state, State::Warning);
    assert_eq!(
        pulling.message,
        "ready 12.20 s after the first request, 12.00 s of it pulling registry.example/pause:3"
    );
    assert!(pulling.hint.unwrap().contains("--base-image"));
    let scheduling = start(&StartStep::Scheduling, 12_000, 200);
    assert_eq!(
        scheduling.hint.as_deref(),
        Some("see what the cluster did: `kubectl get events -n dev`")
    );
    let attaching = start(&StartStep::Starting, 600, 8000);
    assert!(
        attaching.message.ends_with("8.00 s of it attaching"),
        "{}",
        attaching.message
    );
}

#[test]
fn a_probe_that_does_not_come_back_says_how_far_it_came() {
    assert_eq!(probe_check(true, PROBE_LENGTH, 0).state, State::Ok);
    let lost = probe_check(true, PROBE_LENGTH, 2);
    assert_eq!(lost.state, State::Warning);
    assert!(lost.message.contains("2 times"), "{}", lost.message);
    let cut = probe_check(false, 16_384, 0);
    assert_eq!(
        (cut.state, cut.message.as_str()),
        (
            State::Failure,
            "16384 of the probe's 81920 bytes came back within 20.00 s"
        )
    );
    assert!(cut.hint.is_some());
}

#[test]
fn the_round_trip_is_the_median() {
    let pings = Pings::new([1, 2, 40].map(millis_of).to_vec()).unwrap();
    let check = round_trip_check(Ok(pings), Some(Way::Exec));
    assert_eq!(
        check.message,
        "2.0 ms to the agent and back over exec, the median of 3 (1.0 ms to 40.0 ms)"
    );
    assert_eq!(
        check.measured,
        Some(json!({"medianMs": 2.0, "leastMs": 1.0, "mostMs": 40.0}))
    );
    let silent = round_trip_check(Err("the agent did not answer within 5 s".to_owned()), None);
    assert_eq!(silent.state, State::Unknown);
}

#[test]
fn a_name_that_is_not_resolved_is_a_failure_with_its_cure() {
    let named = |answer, took| {
        let took = millis_of(took);
        dns_check(Named { answer, took }, "dev")
    };
    let refused = |code, detail: &str| Err(OpenError::Refused(Refusal::new(code, detail)));
    let address = Some(IpAddr::from([10, 96, 0, 1]));
    let good = named(Ok(address), 3);
    assert_eq!(
        (good.state, good.message.as_str()),
        (
            State::Ok,
            "the pod resolves kubernetes.default.svc to 10.96.0.1 in 3.0 ms, a round trip included"
        )
    );
    let slow = named(Ok(address), 5003);
    assert_eq!(slow.state, State::Warning);
    assert!(slow.hint.unwrap().contains("kube-dns"));
    let detail = "resolve kubernetes.default.svc: no such host";
    let unknown = named(refused(RefusalCode::NoSuchHost, detail), 3);
    assert_eq!(unknown.state, State::Failure);
    assert!(unknown.message.ends_with(detail), "{}", unknown.message);
    assert!(unknown.hint.unwrap().contains("dnsPolicy"));
    let silent = named(
        refused(RefusalCode::TimedOut, "no answer within 10000 ms"),
        10_001,
    );
    assert_eq!(silent.state, State::Failure);
    assert!(
        silent
            .hint
            .unwrap()
            .contains("kubectl get networkpolicies -n dev")
    );
    // It was resolved: what came after that is no failure of the name service.
    let refused_address = named(
        refused(RefusalCode::NotAllowed, "a loopback address is not allowed"),
        3,
    );
    assert_eq!(refused_address.state, State::Warning);
}

#[test]
fn the_throughput_says_what_was_measured() {
    let flow = |mebibytes: u64, millis| volume::Flow {
        bytes: mebibytes << 20,
        time: millis_of(millis),
    };
    let volume = || Volume {
        up: flow(8, 500),
        down: flow(6, 2000),
        verified: 6 << 20,
    };
    let check = throughput_check(Ok(volume()), [Some(Way::Exec), Some(Way::PortForward)]);
    assert_eq!(
        check.message,
        "up 16.0 MiB/s, down 3.0 MiB/s over exec, then port-forward: 8.0 MiB went up in 0.50 s, waited in the pod, \
         then 6.0 MiB came down in 2.00 s; all 6.0 MiB that came back were as they were sent"
    );
    assert_eq!(check.measured.unwrap()["downMiBps"], 3.0);
    let same = throughput_check(Ok(volume()), [Some(Way::Exec); 2]);
    assert!(same.message.contains("over exec: "), "{}", same.message);
    let nothing = Volume {
        verified: 0,
        ..volume()
    };
    assert_eq!(throughput_check(Ok(nothing), [None; 2]).state, State::Warning);
    let altered = NoVolume::Altered { lane: 2, offset: 77 };
    let altered = throughput_check(Err(altered), [None; 2]);
    assert_eq!(altered.state, State::Failure);
    assert!(altered.message.contains("byte 77"), "{}", altered.message);
    let unreached = throughput_check(Err(NoVolume::Setup("refused".to_owned())), [None; 2]);
    assert_eq!(
        (unreached.state, unreached.message.as_str()),
        (State::Unknown, "not checked: refused")
    );
}

fn trial(fate: Fate) -> Trial {
    let started = !matches!(fate, Fate::NotStarted(_));
    Trial {
        id: SessionId::random(),
        timeline: if started {
            timeline(&StartStep::Starting, 600, 100)
        } else {
            Timeline::start(Instant::now())
        },
        fate,
        removal: Some((Ending::clean("dev", "x7k2p9"), millis_of(1400))),
        kept: Vec::new(),
    }
}

fn states(checks: &[Check]) -> Vec<(&'static str, State)> {
    checks.iter().map(|check| (check.name, check.state)).collect()
}

#[test]
fn a_session_that_ends_in_between_fails_one_line_and_leaves_the_rest_unchecked() {
    let findings = Findings {
        checks: vec![probe_check(true, PROBE_LENGTH, 0)],
        ..Findings::default()
    };
    let all = lines(
        &trial(Fate::Lost("its pod was deleted".to_owned())),
        findings,
        "dev",
    );
    assert_eq!(
        states(&all),
        [
            ("start", State::Ok),
            ("probe", State::Ok),
            ("round-trip", State::Failure),
            ("dns", State::Unknown),
            ("throughput", State::Unknown),
            ("removal", State::Ok),
        ]
    );
    assert!(
        all[2].message.contains("its pod was deleted"),
        "{}",
        all[2].message
    );
    assert_eq!(report::failures(&all), 1);
}

#[test]
fn a_session_that_does_not_start_says_so_once() {
    let error = Error::Usage("no".to_owned());
    let all = lines(&trial(Fate::NotStarted(error)), Findings::default(), "dev");
    assert_eq!(report::failures(&all), 1);
    assert_eq!(all[0].state, State::Failure);
    assert_eq!(all[1].message, "not checked: no session started");
    assert_eq!(all.len(), 6);
}

#[test]
fn what_failed_before_keeps_the_session_from_being_started() {
    let checks = [
        Check::ok("server", "answers"),
        Check::failure("rights", "missing"),
        Check::warning("clock", "behind"),
        Check::failure("job", "refused"),
    ];
    assert_eq!(
        in_the_way(&checks).as_deref(),
        Some("no session can start, see rights, job")
    );
    assert_eq!(in_the_way(&checks[..1]), None);
}

#[test]
fn what_is_left_is_a_failure_and_what_may_not_be_seen_is_said() {
    let gone = |ending: &Ending| gone_check(ending, millis_of(1400), "x7k2p9", "dev");
    let clean = Ending::clean("dev", "x7k2p9");
    assert_eq!(
        gone(&clean).message,
        "nothing of session x7k2p9 is left in namespace dev, 1.40 s after the end"
    );
    let mut left = Ending::clean("dev", "x7k2p9");
    left.leftovers = vec![ObjectRef::new("pod", "tunnel-x7k2p9-abcde")];
    let left = gone(&left);
    assert_eq!(left.state, State::Failure);
    assert!(
        left.message.contains("pod/tunnel-x7k2p9-abcde"),
        "{}",
        left.message
    );
    let hint = left.hint.unwrap();
    assert!(
        hint.contains("cleanup -n dev") && hint.contains("kubectl delete"),
        "{hint}"
    );
    let mut unseen = clean;
    unseen.unseen = vec!["configmap"];
    let unseen = gone(&unseen);
    assert_eq!(unseen.state, State::Unknown);
    assert!(
        unseen
            .message
            .starts_with("not allowed to see the configmaps of session x7k2p9"),
        "{}",
        unseen.message
    );
    let kept = Trial {
        kept: vec!["job/tunnel-x7k2p9".to_owned()],
        ..trial(Fate::Used)
    };
    let kept = removal_check(&kept, "dev");
    assert_eq!(kept.state, State::Unknown);
    assert!(kept.hint.unwrap().contains("kubectl delete"));
}
