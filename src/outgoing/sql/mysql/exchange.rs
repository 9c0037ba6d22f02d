//! Where an exchange with the server is. Pure: packets in, their meaning out.
//!
//! It knows at any moment whether the server has ended its answer. So an exchange that a call has given up can be read
//! to its end.

use super::faults::{self, Reported};
use super::wire::{Broken, Parts, unexpected};

/// Flags of the server's state.
const IN_TRANSACTION: u16 = 1;
const AUTOCOMMIT: u16 = 2;
const MORE_RESULTS: u16 = 8;

const OK: u8 = 0x00;
const LOCAL_FILE: u8 = 0xFB;
const END: u8 = 0xFE;
const ERROR: u8 = 0xFF;

/// What the server sends next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: it waits for a command.
    Idle,
    /// The result of a statement.
    Answer,
    /// The number of a statement that it prepares.
    Prepare,
    /// Descriptions of parameters, so many.
    Parameters {
        left: u16,
        columns: u16,
    },
    /// Descriptions of columns.
    Columns {
        left: u64,
        has_rows: bool,
    },
    Rows,
}

/// A statement that the server has prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) id: u32,
    pub(super) parameters: u16,
}

/// The meaning of a packet.
#[derive(Debug, PartialEq)]
pub(super) enum Event<'b> {
    Failed(Reported),
    /// A statement without rows has changed so many.
    Done(u64),
    /// A result with rows begins.
    Result,
    /// The description of a column.
    Column(&'b [u8]),
    Row(&'b [u8]),
    Prepared(Prepared),
    /// What needs no action.
    Passed,
}

#[derive(Debug)]
pub(super) struct Exchange {
    phase: Phase,
    status: u16,
}

impl Exchange {
    /// Behind the log-in.
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Idle,
            status: AUTOCOMMIT,
        }
    }

    /// A command is about to be sent, whose answer begins so.
    pub(super) fn begin(&mut self, phase: Phase) {
        self.phase = phase;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.status & IN_TRANSACTION != 0
    }

    /// Whether each statement is a transaction of its own, where none has begun.
    pub(super) fn commits_each(&self) -> bool {
        self.status & AUTOCOMMIT != 0
    }

    pub(super) fn step<'b>(&mut self, body: &'b [u8]) -> Result<Event<'b>, Broken> {
        let first = *body.first().ok_or_else(|| unexpected("an empty packet"))?;
        if first == ERROR && self.phase != Phase::Idle {
            self.phase = Phase::Idle;
            return Ok(Event::Failed(faults::read(body)));
        }
        let is_end = first == END && body.len() < 9;
        match self.phase {
            Phase::Idle => Err(unexpected("a packet that answers nothing")),
            Phase::Answer => self.answer(first, body),
            Phase::Prepare => self.prepared(first, body),
            Phase::Parameters { left: 0, columns } if is_end => {
                self.described(columns);
                Ok(Event::Passed)
            }
            Phase::Parameters { left, columns } if left > 0 => {
                let left = left - 1;
                self.phase = Phase::Parameters { left, columns };
                Ok(Event::Passed)
            }
            Phase::Columns { left: 0, has_rows } if is_end => {
                self.phase = if has_rows { Phase::Rows } else { Phase::Idle };
                Ok(Event::Passed)
            }
            Phase::Columns { left, has_rows } if left > 0 => {
                let left = left - 1;
                self.phase = Phase::Columns { left, has_rows };
                Ok(Event::Column(body))
            }
            Phase::Rows if is_end => {
                let mut parts = Parts(&body[1..]);
                let status = parts.u16().and_then(|_warnings| parts.u16());
                self.ended(status.ok_or_else(|| unexpected("the end of a result"))?);
                Ok(Event::Passed)
            }
            Phase::Rows => Ok(Event::Row(body)),
            Phase::Parameters { .. } | Phase::Columns { .. } => {
                Err(unexpected("a description too many"))
            }
        }
    }

    fn answer<'b>(&mut self, first: u8, body: &'b [u8]) -> Result<Event<'b>, Broken> {
        let mut parts = Parts(body);
        match first {
            OK => {
                parts.u8();
                let numbers = (parts.length(), parts.length(), parts.u16());
                let (Some(changed), Some(_inserted), Some(status)) = numbers else {
                    return Err(unexpected("the end of a statement"));
                };
                self.ended(status);
                Ok(Event::Done(changed))
            }
            // Moontide says at the log-in that it sends none.
            LOCAL_FILE => Err(unexpected("it asks for a file of this machine")),
            _ => {
                let left = parts.length().ok_or_else(|| unexpected("a result"))?;
                let has_rows = true;
                self.phase = Phase::Columns { left, has_rows };
                Ok(Event::Result)
            }
        }
    }

    fn prepared<'b>(&mut self, first: u8, body: &'b [u8]) -> Result<Event<'b>, Broken> {
        let mut parts = Parts(&body[1..]);
        let numbers = (parts.u32(), parts.u16(), parts.u16());
        let (OK, (Some(id), Some(columns), Some(parameters))) = (first, numbers) else {
            return Err(unexpected("a prepared statement"));
        };
        if parameters > 0 {
            let left = parameters;
            self.phase = Phase::Parameters { left, columns };
        } else {
            self.described(columns);
        }
        Ok(Event::Prepared(Prepared { id, parameters }))
    }

    /// The parameters of a statement are described.
    fn described(&mut self, columns: u16) {
        self.phase = match columns {
            0 => Phase::Idle,
            left => Phase::Columns {
                left: u64::from(left),
                has_rows: false,
            },
        };
    }

    fn ended(&mut self, status: u16) {
        self.status = status;
        let has_more = status & MORE_RESULTS != 0;
        self.phase = if has_more { Phase::Answer } else { Phase::Idle };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END_OF_ROWS: &[u8] = &[0xFE, 0, 0, 2, 0];

    #[test]
    fn a_result_has_columns_rows_and_an_end() {
        let mut exchange = Exchange::new();
        exchange.begin(Phase::Answer);
        assert_eq!(exchange.step(&[1]).unwrap(), Event::Result);
        assert_eq!(
            exchange.step(b"\x03def").unwrap(),
            Event::Column(b"\x03def")
        );
        assert_eq!(exchange.step(END_OF_ROWS).unwrap(), Event::Passed);
        // A value of more than 16 MiB begins with the same byte as the end.
        let large = [0xFE, 0, 0, 0, 1, 0, 0, 0, 0, b'x'];
        assert_eq!(exchange.step(&large).unwrap(), Event::Row(&large));
        assert!(!exchange.is_idle());
        assert_eq!(exchange.step(END_OF_ROWS).unwrap(), Event::Passed);
        assert!(exchange.is_idle() && exchange.commits_each() && !exchange.is_in_transaction());
        assert!(exchange.step(END_OF_ROWS).is_err());
    }

    #[test]
    fn several_results_are_one_exchange() {
        let mut exchange = Exchange::new();
        exchange.begin(Phase::Answer);
        exchange.step(&[1]).unwrap();
        exchange.step(b"\x03def").unwrap();
        exchange.step(END_OF_ROWS).unwrap();
        exchange.step(&[0xFE, 0, 0, 10, 0]).unwrap();
        assert!(!exchange.is_idle());
        let done = exchange.step(&[0, 3, 0, 3, 0, 0, 0]).unwrap();
        assert_eq!(done, Event::Done(3));
        assert!(exchange.is_idle() && exchange.is_in_transaction());
    }

    #[test]
    fn a_prepared_statement_has_descriptions() {
        let mut exchange = Exchange::new();
        for (parameters, columns) in [(0u8, 0u8), (2, 0), (0, 1), (1, 2)] {
            exchange.begin(Phase::Prepare);
            let head = [0, 9, 0, 0, 0, columns, 0, parameters, 0, 0, 0, 0];
            let prepared = Prepared {
                id: 9,
                parameters: u16::from(parameters),
            };
            assert_eq!(exchange.step(&head).unwrap(), Event::Prepared(prepared));
            for count in [parameters, columns] {
                for _ in 0..count {
                    assert!(!exchange.is_idle());
                    exchange.step(b"\x03def").unwrap();
                }
                if count > 0 {
                    exchange.step(END_OF_ROWS).unwrap();
                }
            }
            assert!(exchange.is_idle());
        }
    }

    #[test]
    fn an_error_ends_the_exchange_and_a_file_is_never_sent() {
        let mut exchange = Exchange::new();
        for phase in [Phase::Answer, Phase::Prepare, Phase::Rows] {
            exchange.begin(phase);
            let event = exchange.step(b"\xFF\x15\x04#28000no").unwrap();
            assert!(matches!(event, Event::Failed(_)));
            assert!(exchange.is_idle());
        }
        exchange.begin(Phase::Answer);
        assert!(exchange.step(b"\xFB/etc/passwd").is_err());
        assert!(!exchange.is_idle());
        assert!(exchange.step(b"").is_err());
    }
}
