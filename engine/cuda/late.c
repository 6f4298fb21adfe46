/* A library that is opened when one of its functions is first called.
 *
 * A program that links a CUDA library does not even start where the library is missing. Linked with this file instead,
 * it starts everywhere: each function is a jump through a table whose entries are looked up on the first call. Where the
 * library or the function is missing, the call returns an error of that library's own kind, which the caller reports like
 * any other.
 *
 * Compiled once for each library, with
 *   FUNCTIONS  a file with one line F(index, name) for each function, counted from 0
 *   LIBRARY    the file to open, a string
 *   MISSING    the error to return
 * x86-64 with the System V calling convention only. Functions that take arguments on the stack work too, as the jump
 * leaves the stack as it was.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#if !defined(__x86_64__) || !defined(__linux__)
#error "late.c knows x86-64 Linux only"
#endif

typedef void (*function)(void);

static const char *const names[] = {
#define F(index, name) #name,
#include FUNCTIONS
#undef F
};

#define COUNT (sizeof names / sizeof *names)

/* Named from assembly below, hence neither renamed nor dropped by the compiler. Null: not yet looked up. */
__attribute__((used)) static function table[COUNT] __asm__("vultus_late_table_local");

static void *library;
static pthread_once_t opened = PTHREAD_ONCE_INIT;

static void open_library(void) { library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); }

static long missing(void) { return MISSING; }
static const char *missing_text(void) { return LIBRARY " cannot be opened or lacks this function"; }

/* Functions that return a text instead of an error. Those of the driver write it to an argument and return an error. */
static int returns_text(const char *name) {
    return strncmp(name, "cuGet", 5) != 0 &&
           (strstr(name, "GetErrorString") || strstr(name, "GetStatusString") || strstr(name, "GetStatusName"));
}

__attribute__((used)) static function look_up(unsigned index) __asm__("vultus_late_look_up_local");
static function look_up(unsigned index) {
    pthread_once(&opened, open_library);
    function found = NULL;
    if (library) {
        void *symbol = dlsym(library, names[index]);
        memcpy(&found, &symbol, sizeof found);
    }
    if (found) {
        __atomic_store_n(&table[index], found, __ATOMIC_RELEASE);
        return found;
    }
    return returns_text(names[index]) ? (function)missing_text : (function)missing;
}

/* With the index in r11: looks the function up with every register that can hold an argument kept, and jumps to it. */
__asm__(".text\n"
        "vultus_late_find_local:\n"
        "    pushq %rbp\n"
        "    movq %rsp, %rbp\n"
        "    subq $192, %rsp\n"
        "    andq $-16, %rsp\n"
        "    movq %rdi, (%rsp)\n"
        "    movq %rsi, 8(%rsp)\n"
        "    movq %rdx, 16(%rsp)\n"
        "    movq %rcx, 24(%rsp)\n"
        "    movq %r8, 32(%rsp)\n"
        "    movq %r9, 40(%rsp)\n"
        "    movq %rax, 48(%rsp)\n"
        "    movups %xmm0, 64(%rsp)\n"
        "    movups %xmm1, 80(%rsp)\n"
        "    movups %xmm2, 96(%rsp)\n"
        "    movups %xmm3, 112(%rsp)\n"
        "    movups %xmm4, 128(%rsp)\n"
        "    movups %xmm5, 144(%rsp)\n"
        "    movups %xmm6, 160(%rsp)\n"
        "    movups %xmm7, 176(%rsp)\n"
        "    movl %r11d, %edi\n"
        "    call vultus_late_look_up_local\n"
        "    movq %rax, %r11\n"
        "    movq (%rsp), %rdi\n"
        "    movq 8(%rsp), %rsi\n"
        "    movq 16(%rsp), %rdx\n"
        "    movq 24(%rsp), %rcx\n"
        "    movq 32(%rsp), %r8\n"
        "    movq 40(%rsp), %r9\n"
        "    movq 48(%rsp), %rax\n"
        "    movups 64(%rsp), %xmm0\n"
        "    movups 80(%rsp), %xmm1\n"
        "    movups 96(%rsp), %xmm2\n"
        "    movups 112(%rsp), %xmm3\n"
        "    movups 128(%rsp), %xmm4\n"
        "    movups 144(%rsp), %xmm5\n"
        "    movups 160(%rsp), %xmm6\n"
        "    movups 176(%rsp), %xmm7\n"
        "    leave\n"
        "    jmpq *%r11\n");

#define F(index, name)                                         \
    __asm__(".text\n"                                          \
            ".p2align 4\n"                                     \
            ".globl " #name "\n"                               \
            ".type " #name ", @function\n"                     \
            #name ":\n"                                        \
            "    movq vultus_late_table_local+8*" #index "(%rip), %r11\n" \
            "    testq %r11, %r11\n"                           \
            "    je 1f\n"                                      \
            "    jmpq *%r11\n"                                 \
            "1:  movl $" #index ", %r11d\n"                    \
            "    jmp vultus_late_find_local\n"                 \
            ".size " #name ", .-" #name "\n");
#include FUNCTIONS
