//! Recordings over two streams, and the order in which graphs run.

use super::*;

/// What has run, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u32>>>);

impl Log {
    fn note(&self, number: u32) -> Task {
        let log = self.clone();
        Task::new(move || {
            lock(&log.0).push(number);
            Ok(())
        })
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// Records 0, then 1 and 2 in the first stream beside 3 and 4 in the second, then, unless it is left out, 5 after both.
fn record_fork(card: &Arc<Card>, log: &Log, joins: bool) -> Result<Graph, CUresult> {
    let [first, second] = [card.stream(), card.stream()];
    begin(&first, false)?;
    submit(&first, log.note(0))?;
    wait(&second, &record(&first)?)?;
    submit(&first, log.note(1))?;
    submit(&first, log.note(2))?;
    submit(&second, log.note(3))?;
    submit(&second, log.note(4))?;
    if joins {
        wait(&first, &record(&second)?)?;
        submit(&first, log.note(5))?;
    }
    let graph = end(&first);
    assert!(matches!(status(&first), Status::None) && matches!(status(&second), Status::None));
    graph
}

#[test]
fn a_recording_spreads_through_events_and_is_not_run() {
    let (card, log) = (Card::new(Schedule::Eager), Log::default());
    let graph = record_fork(&card, &log, true).expect("a graph");
    assert!(log.take().is_empty());
    let dependencies: Vec<_> = graph.nodes.iter().map(|node| node.dependencies.clone()).collect();
    assert_eq!(dependencies, [vec![], vec![0], vec![1], vec![0], vec![3], vec![2, 4]]);
    let error = record_fork(&card, &log, false).err();
    assert_eq!(error, Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));
}

#[test]
fn launches_keep_to_the_dependencies_in_any_order() {
    let launch = |schedule: Schedule| {
        let (card, log) = (Card::new(schedule), Log::default());
        let executable = Executable::new(&record_fork(&card, &log, true).expect("a graph"));
        let stream = card.stream();
        (0..2).for_each(|_| submit(&stream, executable.task(&card)).expect("it is queued"));
        stream.synchronize();
        log.take()
    };
    assert_eq!(launch(Schedule::Eager), [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]);
    assert_eq!(launch(Schedule::Late), [0, 3, 4, 1, 2, 5, 0, 3, 4, 1, 2, 5]);
    let mut orders = std::collections::HashSet::new();
    for seed in 0..50 {
        let ran = launch(Schedule::Random(seed));
        for ran in ran.chunks(6) {
            let place = |number: u32| ran.iter().position(|&other| other == number).expect("it ran");
            assert!(place(0) == 0 && place(1) < place(2) && place(3) < place(4) && place(5) == 5, "{ran:?}");
            orders.insert(ran.to_vec());
        }
    }
    // All there are of two lanes of two.
    assert_eq!(orders.len(), 6);
}

#[test]
fn only_kernels_can_be_changed() {
    let (card, log) = (Card::new(Schedule::Late), Log::default());
    let stream = card.stream();
    begin(&stream, false).expect("it begins");
    submit(&stream, log.note(1)).expect("it is recorded");
    let Status::Active(_, handles, 1) = status(&stream) else { panic!("one node to depend on") };
    // SAFETY: there is one.
    let handle = unsafe { *handles };
    let graph = end(&stream).expect("a graph");
    assert_eq!(graph.nodes[0].handle, handle);
    let executable = Executable::new(&graph);
    assert!(!executable.set(handle, log.note(2)), "it is no kernel");
    assert!(!executable.set(handle + 1, log.note(2)), "there is no such node");
}

#[test]
fn what_cannot_be_recorded_spoils_the_recording() {
    let (card, log) = (Card::new(Schedule::Eager), Log::default());
    let [first, second] = [card.stream(), card.stream()];
    let outside = record(&second).expect("it is recorded");
    let spoiled = |spoil: &dyn Fn() -> Result<(), CUresult>| {
        begin(&first, false).expect("it begins");
        let error = spoil().expect_err("it cannot be recorded");
        let invalidated = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        assert_eq!(submit(&first, log.note(0)), Err(invalidated));
        assert!(matches!(status(&first), Status::Invalid));
        assert_eq!(end(&first).err(), Some(invalidated));
        error
    };
    assert_eq!(spoiled(&may_wait), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(spoiled(&|| must_not_capture(&first)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(spoiled(&|| wait(&first, &outside)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    let ends_elsewhere = || {
        wait(&second, &record(&first)?)?;
        end(&second).map(|_| ())
    };
    assert_eq!(spoiled(&ends_elsewhere), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    // All that is over: both streams do as they did, and the thread may wait.
    submit(&first, log.note(7)).expect("it is queued");
    wait(&first, &outside).expect("it is queued");
    may_wait().expect("nothing is recorded");
    assert_eq!(log.take(), [7]);
}

#[test]
fn recordings_stay_apart() {
    let card = Card::new(Schedule::Eager);
    let [first, second] = [card.stream(), card.stream()];
    begin(&first, false).expect("it begins");
    assert_eq!(begin(&first, false).err(), Some(CUresult::CUDA_ERROR_ILLEGAL_STATE));
    let inside = record(&first).expect("it is recorded");
    let elsewhere = std::thread::scope(|scope| scope.spawn(|| end(&first).err()).join());
    assert_eq!(elsewhere.expect("no panic"), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD));
    begin(&second, true).expect("it begins");
    assert_eq!(wait(&second, &inside).err(), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE));
    assert_eq!(end(&second).err(), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    assert!(end(&first).expect("a graph").nodes.is_empty());
    assert_eq!(wait(&second, &inside).err(), Some(CUresult::CUDA_ERROR_CAPTURED_EVENT));
}
