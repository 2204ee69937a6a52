"""What the notebooks of the course share: hardware, data, timing, drawings, proofs and
exercises.

Import this package before TensorFlow: it loads neither TensorFlow nor matplotlib (each
module imports what it needs, where it needs it), keeps TensorFlow's start-up log out of
the notebook, and lets several processes share a GPU.
"""

from course_utils.quiet import prepare

prepare()
