//! A thread that owns a network and runs what waits for it in batches.
//!
//! It computes on a pool of threads of which it is one itself. A network that is called from outside of its pool hands every
//! layer over to it and waits: two switches of threads a layer, which costs a small network more than its arithmetic. Each
//! worker has a pool of its own, so that a short batch of the detector never waits behind a long one of a backbone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::InferError;

/// What a worker thread does with a batch.
pub(super) trait Batch: Send + 'static {
    /// One request.
    type Input: Send;
    /// Its answer.
    type Output: Send;

    /// Name of the thread.
    fn name(&self) -> &'static str;
    /// How much of the batch budget an input takes, at least 1.
    fn cost(&self, input: &Self::Input) -> usize;
    /// Answers each input, in order.
    fn run(&mut self, inputs: Vec<Self::Input>) -> Vec<Result<Self::Output, InferError>>;
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
    submitted: Instant,
    answer: oneshot::Sender<Result<Done<O>, InferError>>,
}

/// Counters of a worker.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) withdrawn: AtomicU64,
    pub(super) stopped: AtomicBool,
}

/// Handle of a worker thread. Dropping it ends the thread once its queue is empty.
pub(super) struct Worker<I, O> {
    queue: Option<mpsc::Sender<Job<I, O>>>,
    pub(super) counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl<I: Send + 'static, O: Send + 'static> Worker<I, O> {
    /// Starts the thread and those that compute with it, `threads` in all; 0 takes as many as there are cores. `budget`
    /// bounds the cost of a batch; a single dearer input still runs, alone.
    pub(super) fn start<B>(batch: B, budget: usize, threads: usize) -> std::io::Result<Self>
    where
        B: Batch<Input = I, Output = O>,
    {
        let (sender, receiver) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let thread = std::thread::Builder::new().name(batch.name().to_owned()).spawn({
            let counters = counters.clone();
            move || {
                let _pool = match pool(batch.name(), threads) {
                    Ok(pool) => pool,
                    Err(error) => return drop(ready.send(Err(std::io::Error::other(error)))),
                };
                let _ = ready.send(Ok(()));
                serve(batch, &receiver, budget, &counters);
                counters.stopped.store(true, Ordering::Release);
            }
        })?;
        started.recv().unwrap_or_else(|_| Err(std::io::Error::other("a worker thread ended at its start")))?;
        Ok(Self { queue: Some(sender), counters, thread: Some(thread) })
    }

    /// Puts a request in the queue. The queue's length is bounded by the permits the caller had to get first.
    pub(super) fn submit(&self, input: I) -> Waiting<O> {
        let (answer, receiver) = oneshot::channel();
        let job = Job { input, submitted: Instant::now(), answer };
        if let Some(queue) = &self.queue {
            // A failed send drops the job and with it the sender, so the receiver reports `Stopped`.
            let _ = queue.send(job);
        }
        Waiting(receiver)
    }
}

/// Makes the calling thread the first of a pool. What describes the pool stays in memory when it ends (some kilobytes, once
/// for each model that was loaded); its other threads end.
fn pool(name: &'static str, threads: usize) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    let named = move |index| format!("{name}-{index}");
    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(named).use_current_thread().build()
}

impl<I, O> Drop for Worker<I, O> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve<B: Batch>(mut batch: B, queue: &mpsc::Receiver<Job<B::Input, B::Output>>, budget: usize, counters: &Counters) {
    let mut held_over = None;
    loop {
        let first = match held_over.take() {
            Some(job) => job,
            None => match queue.recv() {
                Ok(job) => job,
                Err(mpsc::RecvError) => return,
            },
        };
        let mut cost = 0;
        let mut jobs = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next.take().or_else(|| queue.try_recv().ok()) {
            if job.answer.is_closed() {
                counters.withdrawn.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let this = batch.cost(&job.input).max(1);
            if !jobs.is_empty() && cost + this > budget {
                held_over = Some(job);
                break;
            }
            cost += this;
            jobs.push(job);
            if cost >= budget {
                break;
            }
        }
        if jobs.is_empty() {
            continue;
        }
        counters.batches.fetch_add(1, Ordering::Relaxed);
        counters.requests.fetch_add(jobs.len() as u64, Ordering::Relaxed);
        run(&mut batch, jobs);
    }
}

/// Runs one batch and answers each of its requests. A panic in the network fails the batch, not the thread.
fn run<B: Batch>(batch: &mut B, jobs: Vec<Job<B::Input, B::Output>>) {
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
    use std::sync::Mutex;

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
        fn run(&mut self, inputs: Vec<usize>) -> Vec<Result<usize, InferError>> {
            drop(self.gate.lock());
            assert!(!inputs.contains(&13));
            self.sizes.lock().unwrap().push(inputs.len());
            inputs.into_iter().map(|i| Ok(2 * i)).collect()
        }
    }

    type Rig = (Worker<usize, usize>, Arc<Mutex<()>>, Arc<Mutex<Vec<usize>>>);

    fn doubler(budget: usize) -> Rig {
        let (gate, sizes) = (Arc::default(), Arc::default());
        let worker = Worker::start(Doubler { gate: Arc::clone(&gate), sizes: Arc::clone(&sizes) }, budget, 1).unwrap();
        (worker, gate, sizes)
    }

    #[test]
    fn what_waits_is_one_batch_within_the_budget() {
        let (worker, gate, sizes) = doubler(4);
        let held = gate.lock().unwrap();
        let first = worker.submit(1);
        while worker.counters.batches.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let rest: Vec<_> = [2, 1, 2, 9, 1].into_iter().map(|i| worker.submit(i)).collect();
        drop(held);
        assert_eq!(first.wait().unwrap().output, 2);
        let answers: Vec<usize> = rest.into_iter().map(|w| w.wait().unwrap().output).collect();
        assert_eq!(answers, [4, 2, 4, 18, 2]);
        // 1 | 2+1 (2 more would exceed 4) | 2 (9 would) | 9 alone | 1
        assert_eq!(*sizes.lock().unwrap(), [1, 2, 1, 1, 1]);
    }

    #[test]
    fn withdrawn_requests_are_not_run() {
        let (worker, gate, sizes) = doubler(100);
        let held = gate.lock().unwrap();
        let first = worker.submit(1);
        while worker.counters.batches.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        drop(worker.submit(2));
        let kept = worker.submit(3);
        drop(held);
        assert_eq!(first.wait().unwrap().output, 2);
        assert_eq!(kept.wait().unwrap().output, 6);
        assert_eq!(*sizes.lock().unwrap(), [1, 1]);
        assert_eq!(worker.counters.withdrawn.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_panic_fails_its_batch_and_no_other() {
        let (worker, _gate, _sizes) = doubler(1);
        assert!(matches!(worker.submit(13).wait(), Err(InferError::Failed(_))));
        assert_eq!(worker.submit(4).wait().unwrap().output, 8);
    }
}
