//! What waits for a network, and how it is taken in batches.
//!
//! Every request that comes calls a thread of the pool ([`Threads`]), which takes its share of what waits then: a part for
//! each thread that may run the network at a time. So a lone request is answered at once, a busy server's batches fill by
//! themselves, and no thread stands between a request and those that compute.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::InferError;
use super::threads::Threads;

/// What is done with a batch.
pub(super) trait Batch: Send + Sync + 'static {
    /// One request.
    type Input: Send;
    /// Its answer.
    type Output: Send;

    /// What the network is called in the log.
    fn name(&self) -> &'static str;
    /// How much of the batch budget an input takes, at least 1.
    fn cost(&self, input: &Self::Input) -> usize;
    /// Answers each input, in order.
    fn run(&self, inputs: Vec<Self::Input>) -> Vec<Result<Self::Output, InferError>>;
}

/// How long a request waited and ran.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// From submission to the start of its batch.
    pub queued: Duration,
    /// The batch's run.
    pub ran: Duration,
}

/// An answer with its timing.
#[derive(Debug)]
pub struct Done<T> {
    /// The answer.
    pub output: T,
    /// How long it took.
    pub timing: Timing,
}

/// An answer to come. Dropping it withdraws the request unless its batch has started.
#[derive(Debug)]
pub struct Waiting<T>(oneshot::Receiver<Result<Done<T>, InferError>>);

impl<T> Waiting<T> {
    /// Waits on an async runtime.
    pub async fn done(self) -> Result<Done<T>, InferError> {
        self.0.await.unwrap_or(Err(InferError::Stopped))
    }

    /// Waits on a plain thread.
    pub fn wait(self) -> Result<Done<T>, InferError> {
        self.0.blocking_recv().unwrap_or(Err(InferError::Stopped))
    }
}

struct Job<I, O> {
    input: I,
    cost: usize,
    submitted: Instant,
    answer: oneshot::Sender<Result<Done<O>, InferError>>,
}

/// Counters of a queue.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) withdrawn: AtomicU64,
}

/// The queue of a network. What waits is still answered after this is dropped.
pub(super) struct Queue<I, O>(Arc<Shared<I, O>>);

struct Shared<I, O> {
    batch: Box<dyn Batch<Input = I, Output = O>>,
    threads: Threads,
    /// Most cost of a batch; a single dearer input still runs, alone.
    budget: usize,
    /// Batches that may run at a time.
    lanes: usize,
    state: Mutex<State<I, O>>,
    counters: Counters,
}

struct State<I, O> {
    waiting: VecDeque<Job<I, O>>,
    /// Of all that wait.
    cost: usize,
    /// Batches that run.
    running: usize,
}

impl<I: Send + 'static, O: Send + 'static> Queue<I, O> {
    /// A queue of batches that cost at most `budget`, at most `lanes` of which run at a time.
    pub(super) fn new<B>(batch: B, budget: usize, lanes: usize, threads: Threads) -> Self
    where
        B: Batch<Input = I, Output = O>,
    {
        let state = Mutex::new(State { waiting: VecDeque::new(), cost: 0, running: 0 });
        let (budget, lanes) = (budget.max(1), lanes.max(1));
        Self(Arc::new(Shared { batch: Box::new(batch), threads, budget, lanes, state, counters: Counters::default() }))
    }

    /// Puts a request in the queue. The queue's length is bounded by the permits the caller had to get first.
    pub(super) fn submit(&self, input: I) -> Waiting<O> {
        let (answer, receiver) = oneshot::channel();
        let cost = self.0.batch.cost(&input).max(1);
        let mut state = self.0.state.lock();
        state.cost += cost;
        state.waiting.push_back(Job { input, cost, submitted: Instant::now(), answer });
        drop(state);
        self.0.call();
        Waiting(receiver)
    }

    /// Batches that may run at a time.
    pub(super) fn lanes(&self) -> usize {
        self.0.lanes
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

impl<I: Send + 'static, O: Send + 'static> Shared<I, O> {
    /// Calls a thread for what waits.
    fn call(self: &Arc<Self>) {
        let own = Arc::clone(self);
        self.threads.call(move || own.serve());
    }

    /// Runs one batch, where there is something to run and it may. Another thread was called for each request, so those
    /// that come after the batch was taken are seen to, unless they came while nothing more was allowed to run.
    fn serve(self: Arc<Self>) {
        let Some(jobs) = self.take() else { return };
        run(&*self.batch, jobs);
        let mut state = self.state.lock();
        state.running -= 1;
        let more = !state.waiting.is_empty();
        drop(state);
        if more {
            self.call();
        }
    }

    fn take(&self) -> Option<Vec<Job<I, O>>> {
        let mut state = self.state.lock();
        if state.running == self.lanes {
            return None;
        }
        let share = state.cost.div_ceil(self.lanes).clamp(1, self.budget);
        let mut cost = 0;
        let mut jobs: Vec<Job<I, O>> = Vec::new();
        while cost < share
            && let Some(job) = state.waiting.pop_front()
        {
            if job.answer.is_closed() {
                state.cost -= job.cost;
                self.counters.withdrawn.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if !jobs.is_empty() && cost + job.cost > share {
                state.waiting.push_front(job);
                break;
            }
            state.cost -= job.cost;
            cost += job.cost;
            jobs.push(job);
        }
        if jobs.is_empty() {
            return None;
        }
        state.running += 1;
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.counters.requests.fetch_add(jobs.len() as u64, Ordering::Relaxed);
        Some(jobs)
    }
}

/// Runs one batch and answers each of its requests. A panic in the network fails the batch, not the thread.
fn run<I: Send + 'static, O: Send + 'static>(batch: &dyn Batch<Input = I, Output = O>, jobs: Vec<Job<I, O>>) {
    let started = Instant::now();
    let (inputs, answers): (Vec<_>, Vec<_>) =
        jobs.into_iter().map(|job| (job.input, (job.submitted, job.answer))).unzip();
    let outputs = catch_unwind(AssertUnwindSafe(|| batch.run(inputs))).unwrap_or_else(|_| {
        tracing::error!(worker = batch.name(), "the network panicked on a batch");
        Vec::new()
    });
    let ran = started.elapsed();
    let outputs = outputs
        .into_iter()
        .chain(std::iter::repeat_with(|| Err(InferError::Failed("the network panicked on this batch".to_owned()))));
    for ((submitted, answer), output) in answers.into_iter().zip(outputs) {
        let timing = Timing { queued: started.duration_since(submitted), ran };
        // The receiver may have gone meanwhile; then nobody wants the answer.
        let _ = answer.send(output.map(|output| Done { output, timing }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doubles numbers; holds each batch until the gate is released; panics on 13.
    struct Doubler {
        gate: Arc<Mutex<()>>,
        sizes: Arc<Mutex<Vec<usize>>>,
    }

    impl Batch for Doubler {
        type Input = usize;
        type Output = usize;
        fn name(&self) -> &'static str {
            "doubler"
        }
        fn cost(&self, input: &usize) -> usize {
            *input
        }
        fn run(&self, inputs: Vec<usize>) -> Vec<Result<usize, InferError>> {
            drop(self.gate.lock());
            assert!(!inputs.contains(&13));
            self.sizes.lock().push(inputs.len());
            inputs.into_iter().map(|i| Ok(2 * i)).collect()
        }
    }

    type Rig = (Queue<usize, usize>, Arc<Mutex<()>>, Arc<Mutex<Vec<usize>>>);

    fn doubler(budget: usize, lanes: usize) -> Rig {
        let (gate, sizes) = (Arc::default(), Arc::default());
        let doubler = Doubler { gate: Arc::clone(&gate), sizes: Arc::clone(&sizes) };
        let queue = Queue::new(doubler, budget, lanes, Threads::start(lanes).unwrap());
        (queue, gate, sizes)
    }

    #[test]
    fn what_waits_is_one_batch_within_the_budget() {
        let (queue, gate, sizes) = doubler(4, 1);
        let held = gate.lock();
        let first = queue.submit(1);
        while queue.counters().batches.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let rest: Vec<_> = [2, 1, 2, 9, 1].into_iter().map(|i| queue.submit(i)).collect();
        drop(held);
        assert_eq!(first.wait().unwrap().output, 2);
        let answers: Vec<usize> = rest.into_iter().map(|w| w.wait().unwrap().output).collect();
        assert_eq!(answers, [4, 2, 4, 18, 2]);
        // 1 | 2+1 (2 more would exceed 4) | 2 (9 would) | 9 alone | 1
        assert_eq!(*sizes.lock(), [1, 2, 1, 1, 1]);
    }

    #[test]
    fn withdrawn_requests_are_not_run() {
        let (queue, gate, sizes) = doubler(100, 1);
        let held = gate.lock();
        let first = queue.submit(1);
        while queue.counters().batches.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        drop(queue.submit(2));
        let kept = queue.submit(3);
        drop(held);
        assert_eq!(first.wait().unwrap().output, 2);
        assert_eq!(kept.wait().unwrap().output, 6);
        assert_eq!(*sizes.lock(), [1, 1]);
        assert_eq!(queue.counters().withdrawn.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_panic_fails_its_batch_and_no_other() {
        let (queue, _gate, _sizes) = doubler(1, 1);
        assert!(matches!(queue.submit(13).wait(), Err(InferError::Failed(_))));
        assert_eq!(queue.submit(4).wait().unwrap().output, 8);
    }

    #[test]
    fn what_waits_is_divided_among_the_lanes() {
        let (queue, gate, sizes) = doubler(100, 2);
        let held = gate.lock();
        let first: Vec<_> = (0..2).map(|_| queue.submit(1)).collect();
        while queue.counters().batches.load(Ordering::Relaxed) < 2 {
            std::thread::yield_now();
        }
        let rest: Vec<_> = (0..6).map(|_| queue.submit(1)).collect();
        assert_eq!(queue.counters().batches.load(Ordering::Relaxed), 2, "no more than two run at a time");
        drop(held);
        for waiting in first.into_iter().chain(rest) {
            assert_eq!(waiting.wait().unwrap().output, 2);
        }
        let sizes = sizes.lock();
        assert_eq!(sizes.iter().sum::<usize>(), 8);
        // Six waited when the next one was taken: half of them.
        assert_eq!(sizes.iter().max(), Some(&3), "{sizes:?}");
    }

    #[test]
    fn all_are_answered_whoever_comes_when() {
        let (queue, gate, _sizes) = doubler(3, 2);
        drop(gate);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..500 {
                        let waiting: Vec<_> = (0..round % 5).map(|i| queue.submit(i)).collect();
                        for (i, waiting) in waiting.into_iter().enumerate() {
                            assert_eq!(waiting.wait().unwrap().output, 2 * i);
                        }
                    }
                });
            }
        });
        assert_eq!(queue.counters().requests.load(Ordering::Relaxed), 4 * 1000);
    }
}
