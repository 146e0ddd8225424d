//! The I/O stage: threads that read ahead of the workers.
//!
//! One thread after the other plans a group of consecutive tasks, whose data is read with few
//! requests, and loads it while the next thread plans the next group.

use super::{EndOnPanic, Job, Pipeline, Planned};
use crate::error::Result;
use crate::storage::lock;
use crate::storage::os::address_space_limit;
use crate::storage::source::IoHints;
use crate::storage::threads;
use std::ops::ControlFlow;
use std::thread::Scope;

/// Maximum number of tasks in a group.
const MAX_GROUP: usize = 256;

/// Maximum number of threads.
const MAX_THREADS: usize = 64;

/// The threads that read ahead of the workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IoStage {
    /// Number of threads.
    pub(crate) threads: usize,
    /// Bytes that the tasks of a group read together, about.
    pub(crate) group: u64,
    /// Bytes of memory for tasks in flight, about.
    pub(crate) memory: u64,
}

impl IoStage {
    /// Returns a stage for sources with these hints, or `None` if they are local.
    pub(crate) fn of(hints: IoHints) -> Option<Self> {
        // As for workers; see `default_threads`.
        const PER_THREAD: u64 = 64 << 20;
        const RESERVE: u64 = 512 << 20;
        let most = address_space_limit()
            .map_or(MAX_THREADS, |limit| (limit.saturating_sub(RESERVE) / PER_THREAD) as usize);
        let threads = hints.in_flight.min(most).min(MAX_THREADS);
        // A task of uncompressed data weighs three times what it reads. Tasks are committed in order,
        // so that behind a slow request some others are complete; the rest are still in flight.
        let memory = (threads as u64).saturating_mul(hints.optimal).saturating_mul(6);
        (hints.is_remote() && threads > 0).then_some(Self { threads, group: hints.optimal, memory })
    }
}

impl<J, P, C> Pipeline<'_, J, P, C>
where
    J: Job,
    P: FnMut() -> Result<Option<J::Task>> + Send,
    C: FnMut(J::Done) -> Result<ControlFlow<(), J::Rest>> + Send,
{
    /// Starts the threads. Returns their number, which may be 0 under a limit on processes.
    pub(super) fn start_loaders<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        stage: IoStage,
    ) -> usize {
        for started in 0..stage.threads {
            lock(&self.status).loaders += 1;
            if threads::spawn(scope, move || self.run_loader(stage)).is_none() {
                lock(&self.status).loaders -= 1;
                return started;
            }
        }
        stage.threads
    }

    fn run_loader(&self, stage: IoStage) {
        let _guard = EndOnPanic(self);
        while let Some(mut group) = self.plan_group(stage) {
            let tasks = group.iter_mut().filter_map(|planned| planned.task.as_mut().ok());
            self.job.load(&mut tasks.collect::<Vec<_>>());
            lock(&self.status).loaded.extend(group.into_iter().map(|task| (task.ticket, task)));
            self.changed.notify_all();
        }
        lock(&self.status).loaders -= 1;
        self.changed.notify_all();
    }

    /// Plans tasks that together read about as much as one request should. Returns `None` if there
    /// are no more tasks.
    fn plan_group(&self, stage: IoStage) -> Option<Vec<Planned<J::Task>>> {
        let mut plan = lock(&self.plan);
        if !self.wait_for_room() {
            return None;
        }
        let (mut group, mut read, mut memory) = (Vec::new(), 0, 0);
        while read < stage.group && memory < 4 * stage.group && group.len() < MAX_GROUP {
            let planned = self.plan_task(&mut plan, |task| {
                let weight = self.job.weight(task);
                read += weight.read;
                memory += weight.memory;
                weight.memory
            });
            let Some(planned) = planned else { break };
            let failed = planned.task.is_err();
            group.push(planned);
            if failed {
                break;
            }
        }
        (!group.is_empty()).then_some(group)
    }
}

impl<J: Job, P, C> Pipeline<'_, J, P, C> {
    /// Waits for a loaded task and returns the first one. Returns `None` if there will be none.
    pub(super) fn take_loaded(&self) -> Option<Planned<J::Task>> {
        let mut status = lock(&self.status);
        loop {
            if status.outcome.is_some() {
                return None;
            }
            if let Some((_, task)) = status.loaded.pop_first() {
                return Some(task);
            }
            if status.loaders == 0 {
                return None;
            }
            status = self.changed.wait(status).unwrap_or_else(|e| e.into_inner());
        }
    }
}
