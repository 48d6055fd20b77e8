from hintbench.core.buddy cimport Buddy
from hintbench.core.pages cimport Pages

cpdef int ref_count(Pages pages, int pfn) except? -1
cpdef int compound_head(Pages pages, int pfn) except? -1
cpdef int first_used(Pages pages, int pfn, int count) except? -1
cpdef int order_of(Pages pages, int pfn, int kind) except? -1
cpdef bint lies_in(Pages pages, int pfn, int count, int kind) except? -1
cpdef int largest_in_hand(Pages pages, int start_pfn, int end_pfn) except? -1
cpdef object scan_range(Buddy zone, int pfn, int end_pfn, int min_order)
