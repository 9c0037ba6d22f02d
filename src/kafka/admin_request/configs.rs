//! The settings of topics, brokers and groups. **Each call blocks.**
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ptr;

use rdkafka_sys as sys;

use super::native::{Owned, all, check, check_with, native, text};
use super::{AdminRequest, AdminRequests};
use crate::kafka::Error;
use crate::wait::admin::{Altered, Resource, ResourceKind};

/// The settings of one resource, or why there are none.
pub(crate) type Settings = (Resource, Result<Vec<Setting>, Error>);

/// One resource, and what became of the change of its settings.
pub(crate) type Alteration = (Resource, Result<(), Error>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// `None` for one that the brokers do not tell, as a password.
    pub(crate) value: Option<String>,
    /// kafkajs' number of the source.
    pub(crate) source: i32,
    pub(crate) is_default: bool,
    pub(crate) is_sensitive: bool,
    pub(crate) is_read_only: bool,
    /// The values that count where this one is not there.
    pub(crate) synonyms: Vec<Setting>,
}

fn native_kind(kind: ResourceKind) -> sys::rd_kafka_ResourceType_t {
    match kind {
        ResourceKind::Topic => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
        ResourceKind::Broker => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_BROKER,
        ResourceKind::Group => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP,
    }
}

impl AdminRequests<'_> {
    /// At most one of them may be a broker: the request goes to it.
    pub(crate) fn describe_configs(&self, resources: &[&Resource]) -> Result<Vec<Settings>, Error> {
        let request = self.request(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
        // SAFETY: the request copies the objects. The results live as long as the event.
        unsafe {
            let mut objects = Owned::new(sys::rd_kafka_ConfigResource_destroy_array);
            for resource in resources {
                let name = native(&resource.name)?;
                let kind = native_kind(resource.kind);
                objects.push(sys::rd_kafka_ConfigResource_new(kind, name.as_ptr()));
            }
            let (first, count) = objects.parts();
            self.ask(
                &request,
                |rk, options, queue| {
                    sys::rd_kafka_DescribeConfigs(rk, first, count, options, queue);
                },
                |event| {
                    let result = sys::rd_kafka_event_DescribeConfigs_result(event);
                    let get = |count| sys::rd_kafka_DescribeConfigs_result_resources(result, count);
                    Ok(all(get, |one| {
                        let settings = checked(one).map(|()| {
                            let get = |count| sys::rd_kafka_ConfigResource_configs(one, count);
                            let mut settings = all(get, |entry| setting(entry));
                            settings.sort_by(|one, other| one.name.cmp(&other.name));
                            settings
                        });
                        (resource(one), settings)
                    }))
                },
            )
        }
    }

    /// Changes the settings that are named, and no others. At most one of the resources may be a broker.
    pub(crate) fn alter_configs(
        &self,
        resources: &[&Altered],
        validate_only: bool,
    ) -> Result<Vec<Alteration>, Error> {
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS;
        let request = AdminRequest {
            validate_only,
            ..self.request(api)
        };
        // SAFETY: as above.
        unsafe {
            let mut objects = Owned::new(sys::rd_kafka_ConfigResource_destroy_array);
            for altered in resources {
                let name = native(&altered.resource.name)?;
                let kind = native_kind(altered.resource.kind);
                let object = sys::rd_kafka_ConfigResource_new(kind, name.as_ptr());
                objects.push(object);
                for (name, value) in &altered.settings {
                    set(object, name, value.as_deref())?;
                }
            }
            let (first, count) = objects.parts();
            self.ask(
                &request,
                |rk, options, queue| {
                    sys::rd_kafka_IncrementalAlterConfigs(rk, first, count, options, queue);
                },
                |event| {
                    let result = sys::rd_kafka_event_IncrementalAlterConfigs_result(event);
                    let get = |count| {
                        sys::rd_kafka_IncrementalAlterConfigs_result_resources(result, count)
                    };
                    Ok(all(get, |one| (resource(one), checked(one))))
                },
            )
        }
    }
}

/// # Safety
/// The resource is alive.
unsafe fn set(
    resource: *mut sys::rd_kafka_ConfigResource_t,
    name: &str,
    value: Option<&str>,
) -> Result<(), Error> {
    let (name, value) = (native(name)?, value.map(native).transpose()?);
    let operation = if value.is_some() {
        sys::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET
    } else {
        sys::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_DELETE
    };
    let value = value.as_ref().map_or(ptr::null(), |value| value.as_ptr());
    // SAFETY: by the contract; the call copies both texts, and its error is read and destroyed here.
    unsafe {
        let error = sys::rd_kafka_ConfigResource_add_incremental_config(
            resource,
            name.as_ptr(),
            operation,
            value,
        );
        let result = check(error);
        if !error.is_null() {
            sys::rd_kafka_error_destroy(error);
        }
        result
    }
}

/// # Safety
/// The resource is alive.
unsafe fn resource(one: *const sys::rd_kafka_ConfigResource_t) -> Resource {
    // SAFETY: by the contract.
    unsafe {
        let kind = match sys::rd_kafka_ConfigResource_type(one) {
            sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_BROKER => ResourceKind::Broker,
            sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP => ResourceKind::Group,
            _ => ResourceKind::Topic,
        };
        let name = text(sys::rd_kafka_ConfigResource_name(one)).unwrap_or_default();
        Resource { kind, name }
    }
}

/// # Safety
/// The resource is alive.
unsafe fn checked(one: *const sys::rd_kafka_ConfigResource_t) -> Result<(), Error> {
    // SAFETY: by the contract; the text is null or lives as long.
    unsafe {
        let code = sys::rd_kafka_ConfigResource_error(one);
        check_with(code, sys::rd_kafka_ConfigResource_error_string(one))
    }
}

/// # Safety
/// The entry is alive.
unsafe fn setting(entry: *const sys::rd_kafka_ConfigEntry_t) -> Setting {
    // SAFETY: by the contract; texts and synonyms live as long, and a synonym has none itself.
    unsafe {
        let synonyms = |count| sys::rd_kafka_ConfigEntry_synonyms(entry, count);
        Setting {
            name: text(sys::rd_kafka_ConfigEntry_name(entry)).unwrap_or_default(),
            value: text(sys::rd_kafka_ConfigEntry_value(entry)),
            source: sys::rd_kafka_ConfigEntry_source(entry) as i32,
            is_default: sys::rd_kafka_ConfigEntry_is_default(entry) == 1,
            is_sensitive: sys::rd_kafka_ConfigEntry_is_sensitive(entry) == 1,
            is_read_only: sys::rd_kafka_ConfigEntry_is_read_only(entry) == 1,
            synonyms: all(synonyms, |one| setting(one)),
        }
    }
}
