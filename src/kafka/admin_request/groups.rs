//! Consumer groups. **Each call blocks.**
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use rdkafka_sys as sys;

use super::native::{Owned, all, check, natives, text};
use super::{AdminRequests, Changes, Named};
use crate::kafka::{Error, TopicPartition, list};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: String,
    /// Commits come from clients that are no members.
    pub(crate) is_simple: bool,
    /// As Kafka names it: `Stable`.
    pub(crate) state: String,
    pub(crate) assignor: String,
    pub(crate) members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: String,
    /// `group.instance.id`, of a static member.
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) host: String,
    pub(crate) assignment: Vec<TopicPartition>,
}

impl AdminRequests<'_> {
    /// Id of each consumer group, and whether it has no members but only commits. An error of one broker is an error,
    /// since its groups would be missing.
    pub(crate) fn groups(&self) -> Result<Vec<(String, bool)>, Error> {
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS;
        let request = self.request(api);
        // SAFETY: the result and its groups live as long as the event.
        unsafe {
            self.ask(
                &request,
                |rk, options, queue| sys::rd_kafka_ListConsumerGroups(rk, options, queue),
                |event| {
                    let result = sys::rd_kafka_event_ListConsumerGroups_result(event);
                    let errors =
                        |count| sys::rd_kafka_ListConsumerGroups_result_errors(result, count);
                    let errors = all(errors, |error| check(error));
                    errors.into_iter().collect::<Result<(), Error>>()?;
                    let valid =
                        |count| sys::rd_kafka_ListConsumerGroups_result_valid(result, count);
                    let mut groups = all(valid, |group| {
                        let id = text(sys::rd_kafka_ConsumerGroupListing_group_id(group));
                        let is_simple =
                            sys::rd_kafka_ConsumerGroupListing_is_simple_consumer_group(group);
                        (id.unwrap_or_default(), is_simple != 0)
                    });
                    groups.sort_unstable();
                    Ok(groups)
                },
            )
        }
    }

    /// These groups, each with an error of its own.
    pub(crate) fn describe_groups(&self, groups: &[String]) -> Result<Vec<Named<Group>>, Error> {
        let names = natives(groups)?;
        let mut names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let (first, count) = (names.as_mut_ptr(), names.len());
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let request = self.request(api);
        // SAFETY: the request copies the names. The descriptions live as long as the event.
        unsafe {
            self.ask(
                &request,
                |rk, options, queue| {
                    sys::rd_kafka_DescribeConsumerGroups(rk, first, count, options, queue);
                },
                |event| {
                    let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event);
                    let get =
                        |count| sys::rd_kafka_DescribeConsumerGroups_result_groups(result, count);
                    Ok(all(get, |one| described(one)))
                },
            )
        }
    }

    pub(crate) fn delete_groups(&self, groups: &[String]) -> Result<Changes, Error> {
        let names = natives(groups)?;
        let request = self.request(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETEGROUPS);
        // SAFETY: the objects copy the names, and the request the objects. The results live as long as the event.
        unsafe {
            let mut objects = Owned::new(sys::rd_kafka_DeleteGroup_destroy_array);
            for name in &names {
                objects.push(sys::rd_kafka_DeleteGroup_new(name.as_ptr()));
            }
            let (first, count) = objects.parts();
            self.ask(
                &request,
                |rk, options, queue| sys::rd_kafka_DeleteGroups(rk, first, count, options, queue),
                |event| {
                    let result = sys::rd_kafka_event_DeleteGroups_result(event);
                    let get = |count| sys::rd_kafka_DeleteGroups_result_groups(result, count);
                    Ok(all(get, |group| {
                        let name = text(sys::rd_kafka_group_result_name(group));
                        let result = check(sys::rd_kafka_group_result_error(group));
                        (name.unwrap_or_default(), result)
                    }))
                },
            )
        }
    }
}

/// # Safety
/// The description is alive.
unsafe fn described(
    one: *const sys::rd_kafka_ConsumerGroupDescription_t,
) -> Result<Group, (String, Error)> {
    // SAFETY: by the contract; its parts live as long, and there are `count` members.
    unsafe {
        let id = text(sys::rd_kafka_ConsumerGroupDescription_group_id(one)).unwrap_or_default();
        if let Err(error) = check(sys::rd_kafka_ConsumerGroupDescription_error(one)) {
            return Err((id, error));
        }
        let state = sys::rd_kafka_ConsumerGroupDescription_state(one);
        let assignor = sys::rd_kafka_ConsumerGroupDescription_partition_assignor(one);
        let is_simple = sys::rd_kafka_ConsumerGroupDescription_is_simple_consumer_group(one);
        let count = sys::rd_kafka_ConsumerGroupDescription_member_count(one);
        let members = (0..count).map(|index| {
            let member = sys::rd_kafka_ConsumerGroupDescription_member(one, index);
            let assignment = sys::rd_kafka_MemberDescription_assignment(member);
            let assignment = if assignment.is_null() {
                Vec::new()
            } else {
                list::read(sys::rd_kafka_MemberAssignment_partitions(assignment))
            };
            let instance = sys::rd_kafka_MemberDescription_group_instance_id(member);
            Member {
                id: text(sys::rd_kafka_MemberDescription_consumer_id(member)).unwrap_or_default(),
                instance: text(instance).filter(|instance| !instance.is_empty()),
                client_id: text(sys::rd_kafka_MemberDescription_client_id(member))
                    .unwrap_or_default(),
                host: text(sys::rd_kafka_MemberDescription_host(member)).unwrap_or_default(),
                assignment,
            }
        });
        Ok(Group {
            members: members.collect(),
            id,
            is_simple: is_simple != 0,
            state: text(sys::rd_kafka_consumer_group_state_name(state)).unwrap_or_default(),
            assignor: text(assignor).unwrap_or_default(),
        })
    }
}
