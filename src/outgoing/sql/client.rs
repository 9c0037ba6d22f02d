//! The client of one table of one configuration: its pool, and the statements that it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Shared;
use super::driver::{Bounds, Connection as _, Driver, Outcome, Ran, Role};
use super::lease::{Counted, Lease, Pool};
use super::once::Once;
use crate::config::Sql as Settings;
use crate::duration::short;
use crate::telemetry::status::{PoolStatus, SqlStatus};
use crate::wait::sql::{Request, Shape, Statement, Work};
use crate::wait::{Fault, Value};

/// How long a connection may be idle: a server keeps it for ever, and firewalls for some minutes.
const IDLE_MAX: Duration = Duration::from_secs(60);

pub(super) struct Client<D: Driver> {
    pub(super) settings: Settings,
    driver: D,
    writers: Arc<Pool<D>>,
    /// Where statements that only read have connections of their own.
    readers: Option<Arc<Pool<D>>>,
    transactions: Arc<AtomicUsize>,
    pub(super) once: Once,
}

/// What a request has given.
pub(super) enum Answer {
    Value(Value),
    /// See [`Ran::Writes`].
    Writes,
}

impl<D: Driver> Client<D> {
    pub(super) fn new(settings: &Settings, shared: &Shared) -> Self {
        let pool = |size| Pool::<D>::new(size, IDLE_MAX);
        let (writers, readers) = if D::HAS_READERS {
            (pool(1), Some(pool(settings.size)))
        } else {
            (pool(settings.size), None)
        };
        Self {
            settings: settings.clone(),
            driver: D::new(settings, shared),
            writers,
            readers,
            transactions: Arc::default(),
            once: Once::new(settings.once_retention),
        }
    }

    pub(super) async fn request(self: &Arc<Self>, request: &Request) -> Result<Value, Fault> {
        let reads = matches!(request.work, Work::Run(_, Shape::Rows | Shape::One));
        let mut role = if reads { Role::Reads } else { Role::Writes };
        loop {
            let mut lease = self.lease(role, request.within_transaction).await?;
            let answer = self.answer(&mut lease, request).await;
            if lease.is_clean() && lease.is_in_transaction() {
                let message = "the statement has begun a transaction, which is rolled back; use `transaction`";
                return Err(Fault::new("invalid", message));
            }
            match answer? {
                Answer::Value(value) => return Ok(value),
                Answer::Writes => role = Role::Writes,
            }
        }
    }

    /// Carries a request out over this connection.
    pub(super) async fn answer(
        &self,
        lease: &mut Lease<D>,
        request: &Request,
    ) -> Result<Answer, Fault> {
        let within = request.timeout.unwrap_or(self.settings.timeout);
        let connection = lease.connection()?;
        let work = async {
            match &request.work {
                Work::Insert(insert) if insert.rows.is_empty() => {
                    Ok(Answer::Value(Value::Integer(0)))
                }
                Work::Insert(insert) => {
                    let count = connection.insert(insert).await?;
                    Ok(Answer::Value(Value::Integer(count as i64)))
                }
                Work::Run(statement, shape) => {
                    let bounds = self.bounds(*shape);
                    match connection.run(statement, bounds).await? {
                        Ran::Writes => Ok(Answer::Writes),
                        Ran::Done(outcome) => shaped(*shape, outcome, bounds).map(Answer::Value),
                    }
                }
            }
        };
        let answer = timeout(within, work).await;
        answer.unwrap_or_else(|_| Err(too_slow(within)))
    }

    /// A statement of our own that changes rows.
    pub(super) async fn execute(
        &self,
        lease: &mut Lease<D>,
        statement: &Statement,
    ) -> Result<u64, Fault> {
        let within = self.settings.timeout;
        let run = lease
            .connection()?
            .run(statement, self.bounds(Shape::Count));
        match timeout(within, run).await {
            Ok(Ok(Ran::Done(outcome))) => Ok(outcome.count),
            Ok(Ok(Ran::Writes)) => Err(Fault::new("internal", "a connection that only reads")),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(too_slow(within)),
        }
    }

    fn bounds(&self, shape: Shape) -> Bounds {
        Bounds {
            rows: match shape {
                Shape::Rows => self.settings.max_rows,
                Shape::One => 1,
                Shape::Count => 0,
            },
            bytes: self.settings.max_result,
            only_count: shape == Shape::Count,
        }
    }

    /// A connection of the pool, or a new one.
    pub(super) async fn lease(
        &self,
        role: Role,
        within_transaction: bool,
    ) -> Result<Lease<D>, Fault> {
        let pool = match (role, &self.readers) {
            (Role::Reads, Some(readers)) => readers,
            _ => &self.writers,
        };
        let until = Instant::now() + self.settings.acquire_timeout;
        let Some(permit) = pool.acquire(until).await else {
            return Err(self.busy(&pool.counts(), within_transaction));
        };
        let connection = if let Some(connection) = pool.take(&()) {
            connection
        } else {
            pool.make_room();
            let until = Instant::now() + self.settings.connect_timeout;
            let connecting = self.driver.connect(role, pool.opened(), until);
            connecting.await?
        };
        Ok(Lease::new(connection, permit, pool.clone()))
    }

    fn busy(&self, pool: &PoolStatus, within_transaction: bool) -> Fault {
        let PoolStatus { size, waiting, .. } = pool;
        let transactions = self.transactions.load(Ordering::Relaxed);
        let acquire = short(self.settings.acquire_timeout);
        let hint = if within_transaction {
            "; the call holds one itself, by its transaction: use the functions of `tx` there"
        } else {
            ""
        };
        let connections = match size {
            1 => "the one connection is in use".to_owned(),
            size => format!("all {size} connections are in use"),
        };
        Fault::new(
            "busy",
            format!(
                "{connections}, {transactions} of them by transactions, and none became free within {acquire}; \
                 {waiting} more calls wait; `size` and `acquireTimeout` of its table are the limits{hint}"
            ),
        )
    }

    pub(super) fn counted(&self) -> Counted {
        Counted::new(&self.transactions)
    }

    pub(super) fn status(&self) -> SqlStatus {
        let mut pool = self.writers.counts();
        if let Some(readers) = &self.readers {
            pool.add(&readers.counts());
        }
        SqlStatus {
            name: self.settings.name.clone(),
            pool,
            transactions: self.transactions.load(Ordering::Relaxed),
        }
    }

    /// Whether it can be reached, and answers.
    pub(super) async fn reach(&self) -> Result<(), Fault> {
        let mut lease = self.lease(Role::Writes, false).await?;
        let statement = Statement {
            text: "SELECT 1".to_owned(),
            arguments: Vec::new(),
            prepare: Some(false),
        };
        self.execute(&mut lease, &statement).await.map(drop)
    }

    pub(super) fn location(&self) -> String {
        self.driver.location()
    }
}

pub(super) fn too_slow(within: Duration) -> Fault {
    let within = short(within);
    let message =
        format!("no result within {within}; the statement is cancelled, and may have run");
    Fault::new("timeout", message)
}

fn shaped(shape: Shape, outcome: Outcome, bounds: Bounds) -> Result<Value, Fault> {
    let Outcome {
        columns,
        rows,
        count,
    } = outcome;
    if rows.len() > bounds.rows {
        let most = bounds.rows;
        return Err(match shape {
            Shape::One => Fault::new(
                "invalid",
                "there is more than one row; select one, or use `query`",
            ),
            _ => Fault::new(
                "tooLarge",
                format!(
                    "the result has more than {most} rows, which `maxRows` of the table allows; read it in parts, by LIMIT"
                ),
            ),
        });
    }
    let names = || columns.iter().map(|name| Value::Bytes(name.clone()));
    let table = |row: Vec<Value>| {
        let pairs = names().zip(row);
        Value::Table(pairs.filter(|(_, value)| *value != Value::Nil).collect())
    };
    let mut rows = rows.into_iter();
    Ok(match shape {
        Shape::Count => Value::Integer(count as i64),
        Shape::One => rows.next().map_or(Value::Nil, table),
        Shape::Rows => {
            let mut list: Vec<_> = (1..).map(Value::Integer).zip(rows.map(table)).collect();
            let columns = (1..).map(Value::Integer).zip(names()).collect();
            list.push((
                Value::Bytes(b"columns".as_slice().into()),
                Value::Table(columns),
            ));
            Value::Table(list)
        }
    })
}
