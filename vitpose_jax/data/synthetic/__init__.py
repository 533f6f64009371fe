"""A data set that is drawn, not downloaded: articulated people in the official COCO keypoint folder layout.

Every person is a small 3-D body (a skeleton of joint angles, tapered limbs, a tube for the trunk, an ellipsoid for the
head) seen by a weak-perspective camera and painted far to near. Beside the picture a map of part ids is painted, and
visibility flags, boxes and areas are read from that map, so that they are true to what is drawn. A picture is a pure
function of (seed, split, index).

The modules in reading order: `parts` and `chance`; `body` (poses, measures, skeleton) and `look` (colours, clothes),
which a `person` joins; `canvas`; `limbs`, `trunk` and `head`, which `painter` paints in order of depth; `surroundings`;
`labels`; `scene`, a whole picture; `folder`, the files; `film`, a video.
"""

from vitpose_jax.data.synthetic.folder import DETECTIONS_FILE, DRAWING_VERSION, RECIPE_FILE, write_synthetic
from vitpose_jax.data.synthetic.parts import CLUTTER, PARTS, carriers, part_id
from vitpose_jax.data.synthetic.scene import SPLITS, Scene, draw_image, draw_scene

__all__ = [
    "CLUTTER",
    "DETECTIONS_FILE",
    "DRAWING_VERSION",
    "PARTS",
    "RECIPE_FILE",
    "SPLITS",
    "Scene",
    "carriers",
    "draw_image",
    "draw_scene",
    "part_id",
    "write_synthetic",
]
