//! The second way: taken when it is better, left when it dies, and never needed.

use tokio::io::{DuplexStream, ReadHalf};
use tunnel_wire::probe::PROBE_LENGTH;

use super::*;

/// What the agent says up to the first byte of its hello, when it is measured.
const FIRST_OF_HELLO: u64 = 64 + 3 * PROBE_LENGTH as u64 + 1;

/// What happens to the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum SecondFate {
    #[default]
    Works,
    /// Everything comes later than over exec.
    Slow,
    /// There is none, and there may be one later.
    Refused,
    /// There never will be.
    Forbidden,
    /// Nothing ever comes.
    Silent,
    /// It ends for the plugin where the agent has taken its hello.
    EndsAtHello,
}

#[derive(Default)]
pub(super) struct SecondLine {
    fate: Mutex<SecondFate>,
    tried: Mutex<Vec<Instant>>,
    newest: Mutex<Option<watch::Sender<Traffic>>>,
}

impl SecondLine {
    pub(super) async fn connect(
        &self,
        pipes_tx: &mpsc::Sender<(Reader, Writer, Way)>,
    ) -> Result<Transport, Refused> {
        self.tried.lock().unwrap().push(Instant::now());
        let fate = *self.fate.lock().unwrap();
        match fate {
            SecondFate::Refused => return Err(Refused { is_final: false }),
            SecondFate::Forbidden => return Err(Refused { is_final: true }),
            SecondFate::Works | SecondFate::Slow | SecondFate::Silent | SecondFate::EndsAtHello => {}
        }
        let (near, far) = duplex(1 << 16);
        let (traffic_tx, traffic_rx) = watch::channel(Traffic::Flows);
        if fate == SecondFate::Silent {
            traffic_tx.send_replace(Traffic::Frozen);
        }
        *self.newest.lock().unwrap() = Some(traffic_tx);
        let (far_reader, far_writer) = tokio::io::split(far);
        let far_reader = Valve::new(far_reader, traffic_rx.clone(), false);
        let far = (Box::new(far_reader) as Reader, Box::new(far_writer) as Writer);
        pipes_tx.send((far.0, far.1, Way::PortForward)).await.unwrap();
        let (reader, writer) = tokio::io::split(near);
        let reader = Valve::new(reader, traffic_rx, false);
        let reader: Reader = match fate {
            SecondFate::Slow => Box::new(Late::new(reader)),
            SecondFate::EndsAtHello => Box::new(reader.take(FIRST_OF_HELLO)),
            SecondFate::Works | SecondFate::Silent | SecondFate::Refused | SecondFate::Forbidden => {
                Box::new(reader)
            }
        };
        Ok(Transport {
            reader,
            writer: Box::new(writer),
        })
    }
}

/// A reader whose every piece takes a while.
struct Late {
    reader: Valve<ReadHalf<DuplexStream>>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Late {
    fn new(reader: Valve<ReadHalf<DuplexStream>>) -> Self {
        Self { reader, pause: None }
    }
}

impl AsyncRead for Late {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let pause = this
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(10))));
        std::task::ready!(pause.as_mut().poll(cx));
        std::task::ready!(Pin::new(&mut this.reader).poll_read(cx, buf))?;
        this.pause = None;
        Poll::Ready(Ok(()))
    }
}

impl Line {
    fn second_is(&self, fate: SecondFate) {
        *self.0.second.fate.lock().unwrap() = fate;
    }

    /// What was left of the way at each attempt, in seconds since the first.
    fn tried(&self) -> Vec<u64> {
        let tried = self.0.second.tried.lock().unwrap();
        let first = tried.first().copied();
        tried.iter().map(|at| (*at - first.unwrap()).as_secs()).collect()
    }

    fn set_second(&self, traffic: Traffic) {
        let newest = self.0.second.newest.lock().unwrap();
        newest.as_ref().unwrap().send_replace(traffic);
    }
}

fn with(second: SecondWay) -> Settings {
    Settings { second, ..settings() }
}

impl Stage {
    async fn until_on(&self, wanted: Way) -> u32 {
        let phase = self
            .until(|phase| matches!(phase, Phase::Ready { way, .. } if *way == wanted))
            .await;
        let Phase::Ready { transport, .. } = phase else {
            panic!("{phase:?}")
        };
        transport
    }

    /// Attempts so far, once this time has passed; a stream is used all the while, and never waits.
    async fn tried_after(&self, time: Duration) -> Vec<u64> {
        let mut stream = self.open().await;
        let start = Instant::now();
        while start.elapsed() < time {
            let before = Instant::now();
            exchange(&mut stream, b"tick").await;
            assert!(before.elapsed() < Duration::from_millis(10));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(
            self.standing_tx.way() == Some(Way::Exec),
            "it moved: {:?}",
            self.standing_tx.way()
        );
        self.line.tried()
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_moves_over_without_a_pause_when_the_second_way_is_better() {
    let stage = Stage::start(with(SecondWay::IfBetter)).await;
    let mut stream = stage.open().await;
    assert_eq!(stage.standing_tx.way(), Some(Way::Exec));
    let start = Instant::now();
    assert_eq!(stage.until_on(Way::PortForward).await, 2);
    let took = start.elapsed();
    assert!(
        (Duration::from_millis(400)..Duration::from_secs(1)).contains(&took),
        "{took:?}"
    );
    let before = Instant::now();
    exchange(&mut stream, b"over there").await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(stage.line.dialled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_where_it_is_when_the_second_way_is_worse_or_not_wanted() {
    let stage = Stage::start(with(SecondWay::IfBetter)).await;
    stage.line.second_is(SecondFate::Slow);
    assert_eq!(stage.tried_after(Duration::from_secs(200)).await, [0, 30, 90]);
    stage.line.second_is(SecondFate::Works);
    stage.until_on(Way::PortForward).await;

    let stage = Stage::start(settings()).await;
    assert!(stage.tried_after(Duration::from_secs(3600)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_more_and_more_rarely() {
    let stage = Stage::start(with(SecondWay::Preferred)).await;
    stage.line.second_is(SecondFate::Refused);
    assert_eq!(
        stage.tried_after(Duration::from_secs(500)).await,
        [0, 30, 90, 210, 450]
    );
    stage.line.second_is(SecondFate::Silent);
    // Each takes five seconds to be seen.
    let tried = stage.tried_after(Duration::from_secs(1200)).await;
    assert_eq!(tried[5..], [930, 1535]);
    assert_eq!(stage.line.dialled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_is_not_asked_for_twice() {
    let stage = Stage::start(with(SecondWay::IfBetter)).await;
    stage.line.second_is(SecondFate::Forbidden);
    assert_eq!(stage.tried_after(Duration::from_secs(7200)).await, [0]);
    stage.line.cut();
    stage.until_transport(2).await;
    assert_eq!(stage.tried_after(Duration::from_secs(7200)).await, [0]);
}

#[tokio::test(start_paused = true)]
async fn a_second_transport_that_ends_is_replaced_by_exec_and_tried_again_later() {
    let stage = Stage::start(with(SecondWay::IfBetter)).await;
    let mut stream = stage.open().await;
    // It died young each time.
    for pause in [30, 60, 120] {
        stage.until_on(Way::PortForward).await;
        stage.line.set_second(Traffic::Cut);
        let lost = Instant::now();
        exchange(&mut stream, b"still here").await;
        stage.until_on(Way::Exec).await;
        assert!(lost.elapsed() < Duration::from_secs(1), "{:?}", lost.elapsed());
        stage.until_on(Way::PortForward).await;
        let back = lost.elapsed().as_secs();
        assert!((pause..pause + 2).contains(&back), "{back}");
    }
    // And this one did not.
    tokio::time::sleep(Duration::from_secs(90)).await;
    stage.line.set_second(Traffic::Cut);
    let lost = Instant::now();
    stage.until_on(Way::Exec).await;
    stage.until_on(Way::PortForward).await;
    assert!(lost.elapsed() < Duration::from_secs(2), "{:?}", lost.elapsed());
    exchange(&mut stream, b"to the end").await;
}

#[tokio::test(start_paused = true)]
async fn a_second_transport_that_freezes_is_replaced_long_before_it_is_dead() {
    let stage = Stage::start(with(SecondWay::IfBetter)).await;
    let mut stream = stage.open().await;
    stage.until_on(Way::PortForward).await;
    exchange(&mut stream, b"warm").await;
    stage.line.set_second(Traffic::Frozen);
    let frozen = Instant::now();
    exchange(&mut stream, b"thawed").await;
    assert!(
        frozen.elapsed() < Duration::from_secs(3),
        "{:?}",
        frozen.elapsed()
    );
    assert_eq!(stage.standing_tx.way(), Some(Way::Exec));
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_is_not_answered_costs_nothing_but_a_transport() {
    let stage = Stage::start(with(SecondWay::IfBetter)).await;
    stage.line.second_is(SecondFate::EndsAtHello);
    let mut stream = stage.open().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let before = Instant::now();
        exchange(&mut stream, b"tick").await;
        assert!(
            before.elapsed() < Duration::from_secs(1),
            "{:?}",
            before.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stage.line.tried().len(), 1);
    assert_eq!(stage.line.dialled().len(), 2, "the agent had moved over");
    assert_eq!(stage.standing_tx.way(), Some(Way::Exec));
}

#[tokio::test(start_paused = true)]
async fn a_loss_meanwhile_comes_first() {
    let stage = Stage::start(with(SecondWay::IfBetter)).await;
    stage.line.second_is(SecondFate::Silent);
    let mut stream = stage.open().await;
    while stage.line.tried().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.line.cut();
    let lost = Instant::now();
    exchange(&mut stream, b"still here").await;
    assert!(lost.elapsed() < Duration::from_secs(1), "{:?}", lost.elapsed());
    stage.line.second_is(SecondFate::Works);
    stage.until_on(Way::PortForward).await;
    assert!(lost.elapsed() < Duration::from_secs(2), "{:?}", lost.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_planned_renewal_goes_by_exec_and_back() {
    let stage = Stage::start(Settings {
        transport_max_age: Some(Duration::from_secs(60)),
        ..with(SecondWay::IfBetter)
    })
    .await;
    let mut stream = stage.open().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(200) {
        let before = Instant::now();
        exchange(&mut stream, b"tick").await;
        assert!(before.elapsed() < Duration::from_millis(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stage.line.dialled().len(), 4);
    assert_eq!(stage.line.tried().len(), 4);
    assert_eq!(stage.standing_tx.way(), Some(Way::PortForward));
}

#[tokio::test(start_paused = true)]
async fn what_is_required_is_there_when_the_session_is() {
    let stage = Stage::start(with(SecondWay::Required)).await;
    assert_eq!(stage.standing_tx.way(), Some(Way::PortForward));
    let mut stream = stage.open().await;
    stage.line.set_second(Traffic::Cut);
    exchange(&mut stream, b"over exec").await;
    stage.until_on(Way::Exec).await;
    stage.until_on(Way::PortForward).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_required_and_cannot_be_had_is_told() {
    let required = with(SecondWay::Required);
    let Err(error) = Scene::set(0).connect(&required).await else {
        panic!("there is no entrance");
    };
    assert!(matches!(error, ConnectError::Second(SecondError::NoEntrance)));
    for fate in [SecondFate::Refused, SecondFate::Forbidden] {
        let scene = Scene::set(PORT);
        scene.line.second_is(fate);
        let error = scene.connect(&required).await.err();
        assert!(matches!(error, Some(ConnectError::Transport(_))), "{error:?}");
    }
    let scene = Scene::set(PORT);
    scene.line.second_is(SecondFate::Silent);
    let error = scene.connect(&required).await.err();
    assert!(
        matches!(error, Some(ConnectError::Second(SecondError::Entrance(_)))),
        "{error:?}"
    );
}
