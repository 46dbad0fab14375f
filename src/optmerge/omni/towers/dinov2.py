"""DINOv2's patches, after its last norm."""

from optmerge.omni.towers._kind import TowerKind
from optmerge.omni.towers._pictures import extract, extractor, features, grid

KIND = TowerKind(
    name="dinov2",
    modality="image",
    encoders=("dinov2",),
    grid=grid,
    features=features,
    extractor=extractor,
    extract=extract,
)
