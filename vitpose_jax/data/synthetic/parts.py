"""The parts of a drawn person, their values in a part map, and the keypoints that they carry."""

PARTS = (
    "torso", "neck", "skull", "hair", "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_upper_arm", "right_upper_arm", "left_forearm", "right_forearm", "left_hand", "right_hand",
    "left_thigh", "right_thigh", "left_shin", "right_shin", "left_foot", "right_foot", "skirt",
)  # fmt: skip
CLUTTER = 255  # id of things in front of people; 0 is the background
_IDS_PER_PERSON = 32


def part_id(person: int, part: str) -> int:
    """Value in a part map of `part` (a name in `PARTS`) of the person drawn as number `person` (0, 1, …)."""
    return 1 + person * _IDS_PER_PERSON + PARTS.index(part)


_CARRIERS = {
    "shoulder": ("upper_arm",),
    "elbow": ("upper_arm", "forearm"),
    "wrist": ("forearm", "hand"),
    "hip": ("thigh",),
    "knee": ("thigh", "shin"),
    "ankle": ("shin", "foot"),
}
_TRUNK_CARRIERS = {"shoulder": ("torso",), "hip": ("torso", "skirt")}


def carriers(keypoint: str) -> tuple[str, ...]:
    """Names of the parts that carry `keypoint`: a limb's keypoint stands on both limbs that meet there.

    Parts of a limb come before those of the trunk. Eyes, ears and the nose are parts themselves.
    """
    side, _, place = keypoint.partition("_")
    if place not in _CARRIERS:
        return (keypoint,)
    return tuple(f"{side}_{part}" for part in _CARRIERS[place]) + _TRUNK_CARRIERS.get(place, ())
