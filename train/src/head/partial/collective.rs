//! What ranks do together: the operations of a sharded softmax that need all of them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::head::HeadError;

/// A rank among others that train one model. All ranks call the same operations in the same order, and each waits for
/// the others. What is exchanged carries no gradient.
///
/// This is the seam for ranks on devices of their own: three operations that every communication library has.
pub trait Collective {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// The ranks' tensors one after the other along the first dimension, in the order of ranks.
    ///
    /// # Errors
    /// [`HeadError::Ranks`].
    fn gather(&self, part: &Tensor) -> Result<Tensor, HeadError>;

    /// The sum of the ranks' tensors, all of one shape.
    ///
    /// # Errors
    /// [`HeadError::Ranks`].
    fn sum(&self, part: &Tensor) -> Result<Tensor, HeadError>;

    /// The largest of the ranks' values, each for itself, of tensors of one shape.
    ///
    /// # Errors
    /// [`HeadError::Ranks`].
    fn max(&self, part: &Tensor) -> Result<Tensor, HeadError>;
}

/// One rank that has no others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn gather(&self, part: &Tensor) -> Result<Tensor, HeadError> {
        Ok(part.detach())
    }

    fn sum(&self, part: &Tensor) -> Result<Tensor, HeadError> {
        Ok(part.detach())
    }

    fn max(&self, part: &Tensor) -> Result<Tensor, HeadError> {
        Ok(part.detach())
    }
}

/// A rank of several in this process, each on a thread of its own, all on one device. Results are formed in the order of
/// ranks, so they are the same to the bit on every rank and in every run.
///
/// A rank that cannot go on is dropped; the others then get an error where they would wait for it.
#[derive(Debug)]
pub struct InProcess {
    rank: usize,
    meeting: Arc<Meeting>,
}

#[derive(Debug)]
struct Meeting {
    round: Mutex<Round>,
    changed: Condvar,
}

/// One exchange. A rank puts its part down and takes the result; when all have taken it, the next can begin.
#[derive(Debug)]
struct Round {
    parts: Vec<Option<Tensor>>,
    result: Option<Result<Tensor, String>>,
    taken: usize,
    someone_left: bool,
}

impl InProcess {
    /// The ranks of a group.
    pub fn group(ranks: usize) -> Vec<Self> {
        let round = Round { parts: vec![None; ranks], result: None, taken: 0, someone_left: false };
        let meeting = Arc::new(Meeting { round: Mutex::new(round), changed: Condvar::new() });
        (0..ranks).map(|rank| Self { rank, meeting: Arc::clone(&meeting) }).collect()
    }

    fn exchange(
        &self,
        part: &Tensor,
        combine: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, HeadError> {
        let mut round = self.meeting.lock();
        // The round before may not have been taken by all.
        round = self.meeting.wait_until(round, |round| round.result.is_none())?;
        round.parts[self.rank] = Some(part.detach());
        if round.parts.iter().all(Option::is_some) {
            let parts: Vec<Tensor> = round.parts.iter_mut().filter_map(Option::take).collect();
            round.result = Some(combine(&parts).map_err(|error| error.to_string()));
            self.meeting.changed.notify_all();
        }
        round = self.meeting.wait_until(round, |round| round.result.is_some())?;
        let result = round.result.clone();
        round.taken += 1;
        if round.taken == round.parts.len() {
            round.taken = 0;
            round.result = None;
            self.meeting.changed.notify_all();
        }
        match result {
            Some(Ok(tensor)) => Ok(tensor),
            Some(Err(error)) => Err(HeadError::Ranks(error)),
            None => Err(HeadError::Ranks("the exchange has no result".to_owned())),
        }
    }
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `ready`. What is ready is to be had even where someone has left since.
    fn wait_until<'a>(
        &self,
        mut round: MutexGuard<'a, Round>,
        ready: impl Fn(&Round) -> bool,
    ) -> Result<MutexGuard<'a, Round>, HeadError> {
        while !ready(&round) {
            if round.someone_left {
                return Err(HeadError::Ranks("one of them has left".to_owned()));
            }
            round = self.changed.wait(round).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(round)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.meeting.lock().someone_left = true;
        self.meeting.changed.notify_all();
    }
}

impl Collective for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.meeting.lock().parts.len()
    }

    fn gather(&self, part: &Tensor) -> Result<Tensor, HeadError> {
        self.exchange(part, |parts| Tensor::cat(parts, 0))
    }

    fn sum(&self, part: &Tensor) -> Result<Tensor, HeadError> {
        self.exchange(part, |parts| fold(parts, |a, b| a + b))
    }

    fn max(&self, part: &Tensor) -> Result<Tensor, HeadError> {
        self.exchange(part, |parts| fold(parts, |a, b| a.maximum(b)))
    }
}

fn fold(
    parts: &[Tensor],
    join: impl Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
) -> candle_core::Result<Tensor> {
    let mut result = parts[0].clone();
    for part in &parts[1..] {
        result = join(&result, part)?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn together<T: Send>(ranks: usize, work: impl Fn(InProcess) -> T + Sync) -> Vec<T> {
        let work = &work;
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                InProcess::group(ranks).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_gets_what_all_brought_round_after_round() {
        for ranks in 1..=4 {
            together(ranks, |rank| {
                for round in 0..50 {
                    let mine = (rank.rank() * 100 + round) as f64;
                    let part = Tensor::new(&[mine, -mine], &Device::Cpu).unwrap();
                    let all: Vec<f64> = (0..ranks).map(|other| (other * 100 + round) as f64).collect();
                    let sum = rank.sum(&part).unwrap().to_vec1::<f64>().unwrap();
                    let total: f64 = all.iter().sum();
                    assert_eq!(sum, [total, -total]);
                    let max = rank.max(&part).unwrap().to_vec1::<f64>().unwrap();
                    assert_eq!(max, [all[ranks - 1], -all[0]]);
                    let gathered = rank.gather(&part).unwrap().to_vec1::<f64>().unwrap();
                    assert_eq!(gathered, all.iter().flat_map(|value| [*value, -*value]).collect::<Vec<_>>());
                }
            });
        }
    }

    #[test]
    fn nobody_waits_for_one_that_has_left() {
        let results = together(3, |rank| {
            let part = Tensor::new(&[1.0], &Device::Cpu).unwrap();
            rank.sum(&part).unwrap();
            if rank.rank() == 1 { None } else { Some(rank.sum(&part)) }
        });
        assert!(results[1].is_none());
        for result in [&results[0], &results[2]] {
            assert!(matches!(result, Some(Err(HeadError::Ranks(_)))));
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_an_error_on_every_rank() {
        let results = together(2, |rank| {
            let part = Tensor::zeros((1, 2 + rank.rank()), candle_core::DType::F64, &Device::Cpu).unwrap();
            (rank.sum(&part).is_err(), rank.gather(&part.flatten_all().unwrap()).unwrap().elem_count())
        });
        assert_eq!(results, [(true, 5), (true, 5)]);
    }
}
