//! What a client knows of the table of `once`: whether it is made, whose rows it may delete, and when it does so next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::wait::sql::{Identity, Positions};

/// The longest time between two deletions.
const EVERY: Duration = Duration::from_secs(600);

pub(super) struct Once {
    state: Mutex<State>,
    /// The time between two deletions.
    every: Duration,
}

#[derive(Default)]
struct State {
    is_made: bool,
    /// When rows are deleted next; none before the first use.
    next: Option<Instant>,
    /// Partitions of listeners whose calls have used the table.
    scopes: HashMap<String, Partition>,
}

#[derive(Clone)]
struct Partition {
    topic: String,
    number: i32,
    positions: Arc<dyn Positions>,
}

impl Once {
    pub(super) fn new(retention: Duration) -> Self {
        Self {
            state: Mutex::default(),
            // Seldom enough for the database, and often enough for a short retention.
            every: EVERY.min(retention / 100),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_made(&self) -> bool {
        self.state().is_made
    }

    pub(super) fn set_made(&self, is_made: bool) {
        self.state().is_made = is_made;
    }

    /// Whether rows are to be deleted now.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let is_due = state.next.is_some_and(|next| next <= now);
        if is_due || state.next.is_none() {
            state.next = Some(now + self.every);
        }
        is_due
    }

    /// A call has used the table.
    pub(super) fn note(&self, identity: &Identity) {
        let mut state = self.state();
        if let Some(partition) = state.scopes.get_mut(&identity.scope) {
            // Those of the bundle in force: a former one's know of nothing any more.
            partition.positions.clone_from(&identity.positions);
        } else {
            let partition = Partition {
                topic: identity.topic.clone(),
                number: identity.partition,
                positions: identity.positions.clone(),
            };
            state.scopes.insert(identity.scope.clone(), partition);
        }
    }

    /// The scopes with the committed offset of their partition. Without one a scope is forgotten until its next call: the
    /// daemon that has the partition now deletes its rows.
    pub(super) async fn committed(&self) -> Vec<(String, i64)> {
        let scopes = self.state().scopes.clone();
        let mut all = Vec::with_capacity(scopes.len());
        for (scope, partition) in scopes {
            let Partition {
                topic,
                number,
                positions,
            } = partition;
            match positions.committed(&topic, number).await {
                Some(offset) => all.push((scope, offset)),
                None => _ = self.state().scopes.remove(&scope),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::sql::Committed;

    /// A daemon that has these partitions, each committed up to an offset.
    #[derive(Debug)]
    struct Having(Mutex<HashMap<i32, i64>>);

    impl Positions for Having {
        fn committed(&self, topic: &str, partition: i32) -> Committed {
            assert_eq!(topic, "orders");
            let offset = self.0.lock().unwrap().get(&partition).copied();
            Box::pin(async move { offset })
        }
    }

    fn identity(scope: &str, partition: i32, positions: &Arc<Having>) -> Identity {
        Identity {
            text: format!("{scope}/7/0/1"),
            scope: scope.to_owned(),
            topic: "orders".to_owned(),
            partition,
            offset: 7,
            positions: positions.clone(),
        }
    }

    #[test]
    fn rows_go_only_of_partitions_that_are_here_and_committed() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let committed = |once: &Once| {
            let mut all = runtime.block_on(once.committed());
            all.sort();
            all
        };
        let once = Once::new(Duration::from_secs(3_600));
        assert!(committed(&once).is_empty());
        let having = Arc::new(Having(Mutex::new(HashMap::from([(0, 10), (1, 20)]))));
        // Two listeners of a partition, another partition, and one that is not here.
        for (scope, partition) in [("g/a/0", 0), ("g/b/0", 0), ("g/a/1", 1), ("g/a/2", 2)] {
            once.note(&identity(scope, partition, &having));
            once.note(&identity(scope, partition, &having));
        }
        let offset = |scope: &str, offset: i64| (scope.to_owned(), offset);
        let expected = [
            offset("g/a/0", 10),
            offset("g/a/1", 20),
            offset("g/b/0", 10),
        ];
        assert_eq!(committed(&once), expected);
        // It goes on, and one partition goes away.
        *having.0.lock().unwrap() = HashMap::from([(1, 21)]);
        assert_eq!(committed(&once), [offset("g/a/1", 21)]);
        // It is here again, and so are its calls.
        having.0.lock().unwrap().insert(0, 11);
        assert_eq!(committed(&once), [offset("g/a/1", 21)]);
        once.note(&identity("g/a/0", 0, &having));
        assert_eq!(committed(&once), [offset("g/a/0", 11), offset("g/a/1", 21)]);
    }
}
