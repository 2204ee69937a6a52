"""`python -m course_utils`: see course_utils.doctor."""

import sys

from course_utils.doctor import main

if __name__ == "__main__":
    sys.exit(main())
