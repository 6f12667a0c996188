//! Inline ephemeral volumes: made, mounted and removed with one pod. Their attributes are written
//! by the pod's author, who is not trusted: sizes and options pass the same lists as a class's.

use stowage_model::params::{ClassParams, Map, Origin};
use stowage_model::request::{Access, EphemeralRequest};
use stowage_model::volume_request::Wanted;
use stowage_model::{Error, Id, Name, Result, VolumeRequest};

use crate::fields;
use crate::proto::NodePublishVolumeRequest;

/// The key the kubelet adds; a pod's author cannot set it for a volume of another kind.
const MARK: &str = "csi.storage.k8s.io/ephemeral";

pub(super) fn asked(context: &Map) -> bool {
    context.get(MARK).is_some_and(|v| v == "true")
}

pub(super) fn parse(
    request: &NodePublishVolumeRequest,
    access: Access,
    read_only: bool,
) -> Result<EphemeralRequest> {
    let handle = &request.volume_id;
    if handle.parse::<Id>().is_ok() {
        // NodeUnpublishVolume tells inline volumes by their handles and would take this one for
        // the volume, snapshot or group of that id.
        return Err(Error::invalid(format!(
            "volume_id {handle:?} names a volume that is not inline; an inline volume needs a \
             handle of its own"
        )));
    }
    let name = Name::new(handle)?;
    let params = ClassParams::parse(&request.volume_context, &Map::new(), Origin::Inline)?;
    let Access::Mount { fs, flags } = access else {
        return Err(Error::invalid(
            "an inline volume cannot be a block device; use a volume claim for one",
        ));
    };
    Ok(EphemeralRequest {
        volume: VolumeRequest {
            name,
            size: params.size,
            limit: None,
            usage: Wanted::Mount(fs.or(params.fs)),
            mount_flags: vec![flags.clone()],
            mkfs: params.mkfs_options,
            placement: params.placement,
            layout: params.layout,
            provisioning: params.provisioning,
            limits: params.limits,
            source: None,
            read_only: false,
        },
        target: fields::absolute("target_path", &request.target_path)?.to_owned(),
        flags,
        read_only,
    })
}
