"""ViTPose and ViTPose++ in JAX/Flax: plain vision transformers for pose estimation.

Shape legend, used in every docstring and shape comment of this package:

    B crops in a batch        K keypoints of an instance   P instances of a data set
    H, W crop height, width   h, w heatmap height, width   (pixels, cells)
    L tokens                  D embedding width            N attention heads
    d width of one head       F hidden width of the FFN    E experts

Points are (x, y). Sizes are (height, width). Boxes are ``bbox_xywh`` (left, top, width, height) or, for the padded
region that a crop shows, ``box_cxcywh`` (centre x, centre y, width, height). A coordinate carries its space in its
name: ``points_img`` (image pixels), ``points_crop`` (crop pixels), ``points_hm`` (heatmap cells). A matrix reads as a
map: ``crop_to_image`` takes crop pixels to image pixels.
"""

__version__ = "0.1.0"
