"""DINOv2's patches, after its last norm."""

from optmerge.omni.towers import _pictures
from optmerge.omni.towers._kind import TowerKind

KIND = TowerKind(
    name="dinov2",
    modality="image",
    encoders=("dinov2",),
    grid=_pictures.grid,
    features=_pictures.features,
    extractor=_pictures.extractor,
    extract=_pictures.extract,
)
