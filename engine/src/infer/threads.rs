//! The threads that compute.

use std::sync::Arc;

use crate::kernel::crew;

/// One pool for all networks on the CPU: as many threads compute as there are to compute with, whatever runs. Cloning it
/// shares the threads.
#[derive(Debug, Clone)]
pub struct Threads(Arc<rayon::ThreadPool>);

impl Threads {
    /// Starts them; 0 takes as many as there are cores.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|at| format!("compute-{at}")).build();
        Ok(Self(Arc::new(pool.map_err(std::io::Error::other)?)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Has work done by the next thread that is free, in the order of the calls. A thread that only helps others with the
    /// layers of a network leaves them for it.
    pub(super) fn call(&self, work: impl FnOnce() + Send + 'static) {
        let called = crew::called();
        self.0.spawn_fifo(move || {
            drop(called);
            work();
        });
    }
}
