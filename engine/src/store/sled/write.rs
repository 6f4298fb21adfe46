//! Writes: a draft is planned against the trees, then applied in one transaction.
//!
//! Planning reads outside of the transaction, which is sound because the writer's lock is held from the first read to
//! the end of the transaction. The transaction itself only puts and removes rows, so that it may run again and keeps
//! sled's lock, which stops all readers, as short as can be.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use ::sled::IVec;
use ::sled::transaction::{TransactionResult, Transactional};
use jiff::Timestamp;

use super::codec::encode_answer;
use super::draft::{Draft, Rows};
use super::layout::{Tree, answer_time, time_prefix};
use super::{SledStore, database, guarded};
use crate::store::rules::carry_out;
use crate::store::{Committed, Operation, StoreError, StoredAnswer};

/// Answers forgotten in one transaction.
const FORGET_AT_ONCE: usize = 1000;

impl SledStore {
    pub(super) fn write_operations(&self, at: Timestamp, operations: &[Operation]) -> Result<Committed, StoreError> {
        self.write(|draft| carry_out(draft, at, operations))
    }

    pub(super) fn write_answer(&self, key: &[u8; 32], answer: &StoredAnswer) -> Result<(), StoreError> {
        self.write(|draft| {
            draft.remove_answer(key)?;
            draft.put(Tree::Answers, key.to_vec(), &encode_answer(answer)?)?;
            draft.put(Tree::AnswersByTime, answer_time(answer.created_s, key), &[])
        })
    }

    /// Removes answers stored before a second, some at a time so that other writers get their turn.
    pub(super) fn remove_answers(&self, before_s: i64) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let some = self.write(|draft| {
                let old = draft.core.tree(Tree::AnswersByTime).range(..time_prefix(before_s));
                let keys: Vec<IVec> = old.keys().take(FORGET_AT_ONCE).collect::<Result<_, _>>().map_err(database)?;
                for key in &keys {
                    let answer = key.get(8..).unwrap_or_default();
                    draft.remove(Tree::Answers, answer.to_vec())?;
                    draft.remove(Tree::AnswersByTime, key.to_vec())?;
                }
                Ok(keys.len())
            })?;
            removed += some as u64;
            if some < FORGET_AT_ONCE {
                return Ok(removed);
            }
        }
    }

    /// Plans a write and applies it, durably, or does nothing when planning fails.
    fn write<T>(&self, plan: impl FnOnce(&mut Draft<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let planned = {
            let mut writer = self.core.writer.lock();
            // Asked under the lock: a write that failed halfway must not be built upon.
            self.committer.usable()?;
            let mut draft = Draft {
                core: &self.core,
                last_seq: writer.last_seq,
                next_gallery: writer.next_gallery,
                galleries: HashMap::new(),
                rows: BTreeMap::new(),
            };
            let planned = guarded(|| plan(&mut draft));
            if planned.is_ok() && !draft.rows.is_empty() {
                let purges = draft.rows.keys().any(|(tree, _)| matches!(tree, Tree::Purges | Tree::RetiredSets));
                (writer.last_seq, writer.next_gallery) = (draft.last_seq, draft.next_gallery);
                self.apply(draft.rows, draft.last_seq)?;
                if purges {
                    self.committer.untidy();
                }
            }
            planned
        };
        // A refusal may rest on a write that is not durable yet, such as the subject that is there already.
        self.committer.settle()?;
        planned
    }

    /// Applies rows in one transaction, after which `last_seq` is the last change.
    fn apply(&self, rows: Rows, last_seq: u64) -> Result<(), StoreError> {
        let rows: Vec<(usize, IVec, Option<IVec>)> =
            rows.into_iter().map(|((tree, key), value)| (tree as usize, key.into(), value.map(Into::into))).collect();
        let _hidden = self.core.visible.write();
        let result = catch_unwind(AssertUnwindSafe(|| -> TransactionResult<(), Infallible> {
            self.core.trees[..].transaction(|trees| {
                for (tree, key, value) in &rows {
                    match value {
                        Some(value) => trees[*tree].insert(key, value)?,
                        None => trees[*tree].remove(key)?,
                    };
                }
                Ok(())
            })
        }));
        let reason = match result {
            Ok(Ok(())) => {
                self.core.applied_seq.store(last_seq, Ordering::Release);
                self.committer.applied();
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database panicked".to_owned(),
        };
        // sled may have applied a part.
        self.committer.fail(&reason);
        self.committer.usable()
    }
}
