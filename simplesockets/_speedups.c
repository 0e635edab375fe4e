/* What hotpath.py has in Python, for CPython on Linux: the short way of nearly all messages.

   Both are the same to their callers, and the tests run with either. Whatever is not the short way (more than fits, a
   socket that somebody replaced, the end of a stream, what went wrong) is left to the Python code: *_in_full().

   Four things make it cheaper, besides being compiled:
   - The system is asked directly, and never to wait, so that the interpreter need not be let go of each time: that,
     and to get it back, costs a lot, and much more where another thread waits for it.
   - Small reads go through one buffer, so that no room is made for the largest possible message each time.
   - No signal handler of Python's runs inside it, between reading and handing over, say.
   - Who only watches whether things go on (leader.py's stand-by) asks for the interpreter when they do not. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define REVISION 2 /* see hotpath.py */
#define MOST_SENT 4096
#define MOST_READ 16384
#define MOST_DIGITS 18 /* of a length */
#define MOST_WAITED_FOR 4096 /* on the stack of a thread, which programs may make small */
#define TURNS 64 /* of so many calls in a row, … */
#define KEPT 48  /* … so many keep the interpreter */

static PyObject *more, *paused, *nothing, *done;            /* outcomes of a step */
static PyCFunction socket_recv, socket_send, socket_fileno; /* of Python's own sockets */
static char buffer[MOST_READ];                              /* used by who has the interpreter, and keeps it */
static char spare[MOST_READ];                               /* used by one who lets go of it, … */
static int spare_is_taken;                                  /* … until this is false again */

#define NAMES(NAME)                                                                                                    \
    NAME(_come_out) NAME(_connection) NAME(_data_since) NAME(_events) NAME(_give_up) NAME(_has_to_pause)               \
    NAME(_kept) NAME(_lead_in_full) NAME(_named) NAME(_not_parked) NAME(_not_read) NAME(_post_in_full)                 \
    NAME(_send_in_full) NAME(_serve_odd) NAME(_stamp) NAME(_step_in_full) NAME(_stepped) NAME(_take_in_full)           \
    NAME(_told_full) NAME(_went_wrong) NAME(append) NAME(bare) NAME(caught) NAME(connection) NAME(feed) NAME(header_size)         \
    NAME(limit) NAME(on_receive) NAME(read_at) NAME(ring) NAME(send) NAME(source)
#define DECLARE(NAME) static PyObject *name_##NAME;
NAMES(DECLARE)

/* ------------------------------------------------------------------------------------------------- exceptions */

static PyObject *
take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static int
succeeded(PyObject *result) /* takes the reference */
{
    Py_XDECREF(result);
    return result != NULL;
}

static void
raise_again(PyObject *failure) /* takes the reference */
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(failure);
#else
    PyErr_Restore(Py_NewRef(Py_TYPE(failure)), failure, PyException_GetTraceback(failure));
#endif
}

/* ------------------------------------------------------------------------------------------------------ types */

/* What the garbage collector, and the end of an object, want of a type with these objects in it. */

#define VISIT_ONE(member) Py_VISIT(self->member);
#define CLEAR_ONE(member) Py_CLEAR(self->member);
#define KEEPS_OBJECTS(Type, prefix, OBJECTS)                                                                          \
    static int prefix##_traverse(Type *self, visitproc visit, void *arg)                                              \
    {                                                                                                                 \
        Py_VISIT(Py_TYPE(self));                                                                                      \
        OBJECTS(VISIT_ONE)                                                                                            \
        return 0;                                                                                                     \
    }                                                                                                                 \
    static int prefix##_clear(Type *self)                                                                             \
    {                                                                                                                 \
        OBJECTS(CLEAR_ONE)                                                                                            \
        return 0;                                                                                                     \
    }                                                                                                                 \
    static void prefix##_dealloc(Type *self)                                                                          \
    {                                                                                                                 \
        PyTypeObject *type = Py_TYPE(self);                                                                           \
        PyObject_GC_UnTrack(self);                                                                                    \
        prefix##_clear(self);                                                                                         \
        type->tp_free(self);                                                                                          \
        Py_DECREF(type);                                                                                              \
    }

/* A base class of one in Python, with these members and methods. */

#define BASE_CLASS(Type, prefix, methods)                                                                             \
    static PyType_Slot prefix##_slots[] = {                                                                           \
        {Py_tp_members, prefix##_members}, {Py_tp_methods, methods},         {Py_tp_traverse, prefix##_traverse},     \
        {Py_tp_clear, prefix##_clear},     {Py_tp_dealloc, prefix##_dealloc}, {0, NULL},                              \
    };                                                                                                                \
    static PyType_Spec prefix##_spec = {                                                                              \
        "simplesockets._speedups." #Type, sizeof(Type), 0,                                                            \
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, prefix##_slots,                                \
    };

static PyMethodDef no_methods[] = {{NULL, NULL, 0, NULL}};

/* ---------------------------------------------------------------------------------------------------- sockets */

static int
descriptor_of(PyObject *method, PyCFunction wanted)
{
    /* Of the socket, if the method is this one of a socket's own; else -1. */
    if (method == NULL || !PyCFunction_Check(method) || PyCFunction_GET_FUNCTION(method) != wanted)
        return -1;
    PyObject *number = socket_fileno(PyCFunction_GET_SELF(method), NULL);
    if (number == NULL) {
        PyErr_Clear();
        return -1;
    }
    long descriptor = PyLong_AsLong(number);
    Py_DECREF(number);
    return (int)descriptor;
}

static int
keeps_interpreter(void)
{
    /* Who keeps it in one call after another keeps everybody else from running, since they get it by force only, after
       5 ms. To let go of it in a single call would be too short for them to wake up. */
    static unsigned turn;
    return turn++ % TURNS < KEPT;
}

static ssize_t
send_now(int descriptor, const char *data, Py_ssize_t size)
{
    if (keeps_interpreter())
        return send(descriptor, data, size, MSG_DONTWAIT);
    ssize_t sent;
    int failure;
    Py_BEGIN_ALLOW_THREADS
    sent = send(descriptor, data, size, MSG_DONTWAIT);
    failure = errno;
    Py_END_ALLOW_THREADS
    errno = failure;
    return sent;
}

static PyObject *
read_on(int descriptor, const char *start, Py_ssize_t got, Py_ssize_t size)
{
    /* The buffer is full: there is more, most likely. (An error is told once, and the next read has to hear of it.) */
    int waiting = 0;
    if (ioctl(descriptor, FIONREAD, &waiting) < 0 || waiting <= 0)
        return PyBytes_FromStringAndSize(start, got);
    size = Py_MIN(size, got + (Py_ssize_t)waiting);
    PyObject *data = PyBytes_FromStringAndSize(NULL, size);
    if (data == NULL)
        return NULL;
    char *rest = PyBytes_AS_STRING(data) + got;
    memcpy(PyBytes_AS_STRING(data), start, got);
    ssize_t more_got;
    Py_BEGIN_ALLOW_THREADS
    more_got = recv(descriptor, rest, size - got, MSG_DONTWAIT);
    Py_END_ALLOW_THREADS
    _PyBytes_Resize(&data, got + Py_MAX(more_got, 0));
    return data;
}

static PyObject *
taken_from(const char *start, ssize_t got, Py_ssize_t most, int descriptor, Py_ssize_t size)
{
    if (got == most && size > most)
        return read_on(descriptor, start, got, size);
    if (got >= 0)
        return PyBytes_FromStringAndSize(start, got);
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        PyErr_SetFromErrno(PyExc_OSError);
    return NULL;
}

static PyObject *
read_now(int descriptor, Py_ssize_t size)
{
    /* What is there; NULL with an exception set, or without one if there is nothing. */
    Py_ssize_t most = Py_MIN(size, MOST_READ);
    if (keeps_interpreter() || spare_is_taken)
        return taken_from(buffer, recv(descriptor, buffer, most, MSG_DONTWAIT), most, descriptor, size);
    ssize_t got;
    int failure;
    spare_is_taken = 1;
    Py_BEGIN_ALLOW_THREADS
    got = recv(descriptor, spare, most, MSG_DONTWAIT);
    failure = errno;
    Py_END_ALLOW_THREADS
    errno = failure;
    PyObject *data = taken_from(spare, got, most, descriptor, size);
    spare_is_taken = 0;
    return data;
}

/* ------------------------------------------------------------------------------------------------------- Lock */

/* As threading.RLock, and to those in here it costs next to nothing. */

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner; /* of the lock; changed by who has the interpreter, as the next one */
    unsigned long depth;
} Lock;

static PyTypeObject *lock_type;

static PY_TIMEOUT_T
in_microseconds(double seconds) /* -1, if it is for ever */
{
    return seconds < 0 ? -1 : (PY_TIMEOUT_T)(Py_MIN(seconds, INT_MAX) * 1e6);
}

static int
lock_take(Lock *self) /* without waiting; gives whether it could */
{
    unsigned long me = PyThread_get_thread_ident();
    if (self->depth > 0 && self->owner == me) {
        self->depth++;
        return 1;
    }
    if (self->depth > 0 || !PyThread_acquire_lock(self->lock, NOWAIT_LOCK))
        return 0;
    self->owner = me;
    self->depth = 1;
    return 1;
}

static void
lock_let_go(Lock *self)
{
    if (--self->depth == 0)
        PyThread_release_lock(self->lock);
}

static double
now(void) /* as time.perf_counter() */
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int
lock_wait(Lock *self, double timeout) /* 1 if it was taken, 0 if the time was over, -1 if a signal handler raised */
{
    double end = timeout < 0 ? 0 : now() + timeout;
    PyLockStatus status;
    do {
        PY_TIMEOUT_T microseconds = in_microseconds(timeout < 0 ? -1 : Py_MAX(end - now(), 0.0));
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->lock, microseconds, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_INTR && PyErr_CheckSignals() < 0)
            return -1;
    } while (status == PY_LOCK_INTR);
    if (status != PY_LOCK_ACQUIRED)
        return 0;
    self->owner = PyThread_get_thread_ident();
    self->depth = 1;
    return 1;
}

static PyObject *
lock_acquire(Lock *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"blocking", "timeout", NULL};
    int blocking = 1;
    double timeout = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pd:acquire", names, &blocking, &timeout))
        return NULL;
    if (!(timeout == -1 || (blocking && timeout >= 0 && timeout <= INT_MAX))) {
        PyErr_Format(PyExc_ValueError, "the timeout must be from 0 to %d seconds, and the lock waited for", INT_MAX);
        return NULL;
    }
    int taken = lock_take(self);
    if (!taken && blocking)
        taken = lock_wait(self, timeout);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static int
lock_is_mine(Lock *self)
{
    return self->depth > 0 && self->owner == PyThread_get_thread_ident();
}

static PyObject *
lock_release(Lock *self, PyObject *Py_UNUSED(ignored))
{
    if (!lock_is_mine(self)) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return NULL;
    }
    lock_let_go(self);
    Py_RETURN_NONE;
}

static PyObject *
lock_enter(Lock *self, PyObject *Py_UNUSED(ignored))
{
    return lock_take(self) || lock_wait(self, -1) > 0 ? Py_NewRef(Py_True) : NULL;
}

static PyObject *
lock_exit(Lock *self, PyObject *Py_UNUSED(args))
{
    return lock_release(self, NULL);
}

static PyObject *
lock_is_owned(Lock *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(lock_is_mine(self));
}

/* For threading.Condition: to give it up altogether while waiting. */

static PyObject *
lock_release_save(Lock *self, PyObject *Py_UNUSED(ignored))
{
    unsigned long depth = self->depth;
    if (!lock_is_mine(self))
        return lock_release(self, NULL);
    self->depth = 1;
    lock_let_go(self);
    return PyLong_FromUnsignedLong(depth);
}

static PyObject *
lock_acquire_restore(Lock *self, PyObject *saved)
{
    unsigned long depth = PyLong_AsUnsignedLong(saved);
    if (depth == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (!PyThread_acquire_lock(self->lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(self->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
    self->owner = PyThread_get_thread_ident();
    self->depth = depth;
    Py_RETURN_NONE;
}

static PyObject *
lock_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Lock *self = (Lock *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void
lock_dealloc(Lock *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->lock != NULL) {
        if (self->depth > 0)
            PyThread_release_lock(self->lock);
        PyThread_free_lock(self->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))lock_acquire, METH_VARARGS | METH_KEYWORDS, NULL},
    {"release", (PyCFunction)lock_release, METH_NOARGS, NULL},
    {"__enter__", (PyCFunction)lock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)lock_exit, METH_VARARGS, NULL},
    {"_is_owned", (PyCFunction)lock_is_owned, METH_NOARGS, NULL},
    {"_release_save", (PyCFunction)lock_release_save, METH_NOARGS, NULL},
    {"_acquire_restore", (PyCFunction)lock_acquire_restore, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_new, lock_new}, {Py_tp_dealloc, lock_dealloc}, {Py_tp_methods, lock_methods}, {0, NULL},
};

static PyType_Spec lock_spec = {"simplesockets._speedups.Lock", sizeof(Lock), 0, Py_TPFLAGS_DEFAULT, lock_slots};

/* ----------------------------------------------------------------------------------------------------- Sender */

typedef struct {
    PyObject_HEAD
    PyObject *send, *lock;
    long long bytes_out, messages_out;
} Sender;

static PyObject *
sender_raise_named(Sender *self)
{
    PyObject *failure = take_exception();
    PyObject *shown = PyObject_CallMethodOneArg((PyObject *)self, name__named, failure);
    if (shown != NULL) {
        if (shown != failure)
            PyException_SetCause(shown, Py_NewRef(failure));
        raise_again(shown);
    }
    Py_DECREF(failure);
    return NULL;
}

static int
sender_send_locked(Sender *self, PyObject *data)
{
    /* Gives 0, or -1 with an exception set; 1 if nothing was done, since this is not the short way. */
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    int descriptor = descriptor_of(self->send, socket_send);
    if (descriptor < 0)
        return 1;
    ssize_t sent = send_now(descriptor, PyBytes_AS_STRING(data), size);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        sent = 0;
    }
    self->bytes_out += sent;
    if (sent < size) {
        PyObject *result = PyObject_CallMethod((PyObject *)self, "_send_rest", "Nn", PyMemoryView_FromObject(data),
                                               (Py_ssize_t)sent);
        if (result == NULL)
            return -1;
        Py_DECREF(result);
    }
    self->messages_out++;
    return 0;
}

static PyObject *
sender_send_all(Sender *self, PyObject *data)
{
    if (!PyBytes_CheckExact(data) || PyBytes_GET_SIZE(data) > MOST_SENT || self->lock == NULL ||
        !Py_IS_TYPE(self->lock, lock_type) || !lock_take((Lock *)self->lock))
        return PyObject_CallMethodOneArg((PyObject *)self, name__send_in_full, data);
    Lock *lock = (Lock *)Py_NewRef(self->lock);
    int outcome = sender_send_locked(self, data);
    if (lock_is_mine(lock)) /* locking.py's let_go(), in a signal handler, cannot tell whose it is */
        lock_let_go(lock);
    Py_DECREF(lock);
    if (outcome > 0)
        return PyObject_CallMethodOneArg((PyObject *)self, name__send_in_full, data);
    if (outcome < 0)
        return PyErr_ExceptionMatches(PyExc_OSError) ? sender_raise_named(self) : NULL;
    Py_RETURN_NONE;
}

#define SENDER_OBJECTS(DO) DO(send) DO(lock)
KEEPS_OBJECTS(Sender, sender, SENDER_OBJECTS)

static PyMemberDef sender_members[] = {
    {"_send", T_OBJECT_EX, offsetof(Sender, send), 0, NULL},
    {"write_lock", T_OBJECT_EX, offsetof(Sender, lock), 0, NULL},
    {"bytes_out", T_LONGLONG, offsetof(Sender, bytes_out), 0, NULL},
    {"messages_out", T_LONGLONG, offsetof(Sender, messages_out), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef sender_methods[] = {
    {"send_all", (PyCFunction)sender_send_all, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

BASE_CLASS(Sender, sender, sender_methods)

static PyTypeObject *sender_type;

/* ----------------------------------------------------------------------------------------------------- Poster */

typedef struct {
    PyObject_HEAD
    PyObject *sender, *waiting;
    char closed, sending;
} Poster;

static ssize_t
poster_try(Poster *self, Sender *sender, PyObject *frame) /* with the lock; what was sent, below 0 if nothing */
{
    if (self->closed || self->sending || self->waiting == NULL || PyObject_Size(self->waiting) != 0)
        return -1;
    int descriptor = descriptor_of(sender->send, socket_send);
    ssize_t sent = descriptor < 0 ? -1 : send_now(descriptor, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame));
    if (sent >= 0) {
        sender->bytes_out += sent;
        sender->messages_out++;
    }
    return sent;
}

static PyObject *
poster_store(Poster *self, PyObject *frame, Py_ssize_t sent) /* with the lock; what did not fit */
{
    PyObject *whole = PyMemoryView_FromObject(frame);
    PyObject *rest = whole == NULL ? NULL : PySequence_GetSlice(whole, sent, PyBytes_GET_SIZE(frame));
    PyObject *full = rest == NULL ? NULL : PyObject_CallMethod((PyObject *)self, "_store", "OO", rest, Py_True);
    Py_XDECREF(whole);
    Py_XDECREF(rest);
    return full;
}

static PyObject *
poster_post(Poster *self, PyObject *frame)
{
    Sender *sender = (Sender *)self->sender;
    if (sender == NULL || !PyObject_TypeCheck((PyObject *)sender, sender_type) || !PyBytes_CheckExact(frame) ||
        PyBytes_GET_SIZE(frame) > MOST_SENT || sender->lock == NULL || !Py_IS_TYPE(sender->lock, lock_type) ||
        !lock_take((Lock *)sender->lock))
        return PyObject_CallMethodOneArg((PyObject *)self, name__post_in_full, frame);
    Lock *lock = (Lock *)Py_NewRef(sender->lock);
    Py_INCREF(sender);
    ssize_t sent = poster_try(self, sender, frame);
    Py_DECREF(sender);
    PyObject *full = 0 <= sent && sent < PyBytes_GET_SIZE(frame) ? poster_store(self, frame, sent) : NULL;
    lock_let_go(lock);
    Py_DECREF(lock);
    if (sent < 0)
        return PyObject_CallMethodOneArg((PyObject *)self, name__post_in_full, frame); /* that tells why */
    if (sent == PyBytes_GET_SIZE(frame))
        Py_RETURN_TRUE;
    PyObject *result = full == NULL ? NULL : PyObject_CallMethod((PyObject *)self, "_stored", "OO", full, Py_True);
    Py_XDECREF(full);
    return result;
}

#define POSTER_OBJECTS(DO) DO(sender) DO(waiting)
KEEPS_OBJECTS(Poster, poster, POSTER_OBJECTS)

static PyMemberDef poster_members[] = {
    {"_sender", T_OBJECT, offsetof(Poster, sender), 0, NULL},
    {"_waiting", T_OBJECT_EX, offsetof(Poster, waiting), 0, NULL},
    {"_closed", T_BOOL, offsetof(Poster, closed), 0, NULL},
    {"_sending", T_BOOL, offsetof(Poster, sending), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef poster_methods[] = {
    {"post", (PyCFunction)poster_post, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

BASE_CLASS(Poster, poster, poster_methods)

/* ---------------------------------------------------------------------------------------------------- Stepper */

typedef struct {
    PyObject_HEAD
    PyObject *inbox, *read, *deliver, *delivering, *error, *send, *protocol, *feed;
    Py_ssize_t read_size, brief;
    long long bytes_in, messages_in;
    double read_at;
    unsigned long served_by;
    int read_flags;
    char closing, reading;
    char big; /* so was what came last */
} Stepper;

static PyObject *
stepper_read_in_full(Stepper *self)
{
    if (self->read == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_read");
        return NULL;
    }
    PyObject *read = Py_NewRef(self->read);
    PyObject *data = PyObject_CallFunction(read, "ni", self->read_size, self->read_flags);
    Py_DECREF(read);
    return data;
}

static PyObject *
stepper_wait_and_read(Stepper *self, int descriptor)
{
    /* A read that may wait, of what is small, most likely. */
    char here[MOST_WAITED_FOR];
    Py_ssize_t most = Py_MIN(self->read_size, MOST_WAITED_FOR);
    ssize_t got;
    int failure;
    do {
        Py_BEGIN_ALLOW_THREADS
        got = recv(descriptor, here, most, 0);
        failure = errno;
        Py_END_ALLOW_THREADS
        if (got < 0 && failure == EINTR && PyErr_CheckSignals() < 0)
            return NULL;
    } while (got < 0 && failure == EINTR);
    errno = failure;
    if (got < 0 && (failure == EAGAIN || failure == EWOULDBLOCK))
        return stepper_read_in_full(self); /* it does not wait: Python knows for how long it has to */
    return taken_from(here, got, most, descriptor, self->read_size);
}

static PyObject *
stepper_read(Stepper *self)
{
    /* What came; NULL with an exception set, or without one if nothing did. */
    int descriptor = self->read_size > 0 ? descriptor_of(self->read, socket_recv) : -1;
    PyObject *data;
    if (descriptor >= 0 && self->read_flags == MSG_DONTWAIT)
        data = read_now(descriptor, self->read_size);
    else if (descriptor >= 0 && self->read_flags == 0 && !self->big)
        data = stepper_wait_and_read(self, descriptor);
    else
        data = stepper_read_in_full(self);
    if (data != NULL)
        self->big = PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) >= MOST_WAITED_FOR;
    return data;
}

static PyObject *
stepper_handle(Stepper *self, PyObject *name, PyObject *data)
{
    /* Call a method with what was read, if anything was, and with the exception that is set. */
    PyObject *failure = take_exception();
    PyObject *result = PyObject_CallMethodObjArgs((PyObject *)self, name, failure, data, NULL);
    Py_XDECREF(failure);
    return result;
}

static Py_ssize_t
number_of(PyObject *object, PyObject *name) /* one that is 0 or more; -1 if it is no such number */
{
    PyObject *value = PyObject_GetAttr(object, name);
    Py_ssize_t number = value == NULL ? -1 : PyLong_AsSsize_t(value);
    Py_XDECREF(value);
    PyErr_Clear();
    return number;
}

static int
has_none(PyObject *object, PyObject *name) /* in a container, by its length */
{
    PyObject *value = PyObject_GetAttr(object, name);
    int none = value != NULL && PyObject_Size(value) == 0;
    Py_XDECREF(value);
    PyErr_Clear();
    return none;
}

static Py_ssize_t
length_in(const char *header, Py_ssize_t size) /* in decimal digits, spaces behind them; -1 if that is not all */
{
    Py_ssize_t length = 0, i = 0;
    while (i < size && i < MOST_DIGITS && '0' <= header[i] && header[i] <= '9')
        length = 10 * length + header[i++] - '0';
    if (i == 0)
        return -1;
    while (i < size && header[i] == ' ')
        i++;
    return i == size ? length : -1;
}

static PyObject *
only_frame(PyObject *framer, PyObject *data) /* of a LengthPrefixFramer */
{
    /* The frame, if that is a whole one and nothing else; NULL, without an exception, if not. */
    Py_ssize_t header_size = number_of(framer, name_header_size), size = PyBytes_GET_SIZE(data);
    if (header_size <= 0 || size < header_size || !has_none(framer, name__kept) || !has_none(framer, name_bare))
        return NULL;
    Py_ssize_t length = length_in(PyBytes_AS_STRING(data), header_size);
    if (length != size - header_size || length > number_of(framer, name_limit))
        return NULL;
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + header_size, length);
}

static PyObject *
stepper_frame(Stepper *self, PyObject *data) /* as only_frame() */
{
    if (self->feed == NULL || !PyMethod_Check(self->feed) || self->protocol == NULL ||
        (self->error != NULL && self->error != Py_None))
        return NULL;
    PyObject *feed = PyObject_GetAttr(self->protocol, name_feed); /* somebody may have put another one in its place */
    PyObject *frame = feed == self->feed ? only_frame(PyMethod_GET_SELF(feed), data) : NULL;
    Py_XDECREF(feed);
    return frame;
}

static PyObject *
stepper_item(Stepper *self, PyObject *data)
{
    /* What is to be handed over if that came; NULL, without an exception, if this is not the short way. Others may have
       run meanwhile, if the read waited. */
    Py_ssize_t size = PyBytes_CheckExact(data) ? PyBytes_GET_SIZE(data) : 0;
    if (size == 0 || size >= self->read_size || self->closing || !self->reading || PyObject_Size(self->inbox) != 0)
        return NULL;
    return size < self->brief ? Py_NewRef(data) : stepper_frame(self, data);
}

static PyObject *
stepper_deliver(Stepper *self, PyObject *data, PyObject *item)
{
    self->read_at = now();
    self->served_by = PyThread_get_thread_ident();
    self->bytes_in += PyBytes_GET_SIZE(data);
    self->messages_in++;
    if (item != data) /* else a signal handler's exception shows what it was */
        Py_XSETREF(self->delivering, Py_NewRef(item));
    PyObject *deliver = Py_NewRef(self->deliver), *outcome;
    PyObject *full = PyObject_CallOneArg(deliver, item);
    Py_DECREF(deliver);
    int pause = full == NULL ? -1 : PyObject_IsTrue(full);
    Py_XDECREF(full);
    if (pause < 0)
        outcome = stepper_handle(self, name__went_wrong, data);
    else {
        outcome = Py_NewRef(pause ? paused : more);
        if (item != data)
            Py_XSETREF(self->delivering, Py_NewRef(Py_None));
    }
    self->served_by = 0;
    return outcome;
}

static PyObject *
stepper_step(Stepper *self, PyObject *Py_UNUSED(ignored))
{
    if (self->closing)
        return Py_NewRef(done);
    if (!self->reading || self->inbox == NULL || self->deliver == NULL || PyObject_Size(self->inbox) != 0)
        return PyObject_CallMethodNoArgs((PyObject *)self, name__step_in_full);
    PyObject *data = stepper_read(self);
    if (data == NULL) {
        if (!PyErr_Occurred())
            return Py_NewRef(nothing);
        return PyErr_ExceptionMatches(PyExc_OSError) ? stepper_handle(self, name__not_read, NULL) : NULL;
    }
    PyObject *item = stepper_item(self, data), *outcome;
    if (item != NULL)
        outcome = stepper_deliver(self, data, item);
    else {
        PyErr_Clear();
        outcome = PyObject_CallMethodOneArg((PyObject *)self, name__step_in_full, data);
    }
    Py_XDECREF(item);
    Py_DECREF(data);
    return outcome;
}

#define STEPPER_OBJECTS(DO) DO(inbox) DO(read) DO(deliver) DO(delivering) DO(error) DO(send) DO(protocol) DO(feed)
KEEPS_OBJECTS(Stepper, stepper, STEPPER_OBJECTS)

static PyMemberDef stepper_members[] = {
    {"_inbox", T_OBJECT_EX, offsetof(Stepper, inbox), 0, NULL},
    {"_read", T_OBJECT_EX, offsetof(Stepper, read), 0, NULL},
    {"_deliver", T_OBJECT_EX, offsetof(Stepper, deliver), 0, NULL},
    {"_delivering", T_OBJECT, offsetof(Stepper, delivering), 0, NULL},
    {"_error", T_OBJECT, offsetof(Stepper, error), 0, NULL},
    {"send", T_OBJECT_EX, offsetof(Stepper, send), 0, NULL},
    {"protocol", T_OBJECT_EX, offsetof(Stepper, protocol), 0, NULL},
    {"_feed", T_OBJECT, offsetof(Stepper, feed), 0, NULL},
    {"_read_size", T_PYSSIZET, offsetof(Stepper, read_size), 0, NULL},
    {"_read_flags", T_INT, offsetof(Stepper, read_flags), 0, NULL},
    {"_short", T_PYSSIZET, offsetof(Stepper, brief), 0, NULL},
    {"bytes_in", T_LONGLONG, offsetof(Stepper, bytes_in), 0, NULL},
    {"messages_in", T_LONGLONG, offsetof(Stepper, messages_in), 0, NULL},
    {"read_at", T_DOUBLE, offsetof(Stepper, read_at), 0, NULL},
    {"served_by", T_ULONG, offsetof(Stepper, served_by), 0, NULL},
    {"closing", T_BOOL, offsetof(Stepper, closing), 0, NULL},
    {"reading", T_BOOL, offsetof(Stepper, reading), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef stepper_methods[] = {
    {"step", (PyCFunction)stepper_step, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

BASE_CLASS(Stepper, stepper, stepper_methods)

static PyTypeObject *stepper_type;

/* ---------------------------------------------------------------------------------------------- SendingMethod */

/* A method send(data, …) of an object with a _connection: calls that one's send(data), if the data is bytes and there
   are no more arguments; else the method in Python. */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function;
} SendingMethod;

static PyObject *
sending_method_to(PyObject *connection, PyObject *data)
{
    if (!PyObject_TypeCheck(connection, stepper_type) || ((Stepper *)connection)->send == NULL)
        return PyObject_CallMethodOneArg(connection, name_send, data);
    PyObject *send = Py_NewRef(((Stepper *)connection)->send), *result;
    if (PyCFunction_Check(send) && PyCFunction_GET_FUNCTION(send) == (PyCFunction)sender_send_all)
        result = sender_send_all((Sender *)PyCFunction_GET_SELF(send), data);
    else
        result = PyObject_CallOneArg(send, data);
    Py_DECREF(send);
    return result;
}

static PyObject *
sending_method_call(SendingMethod *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    if (PyVectorcall_NARGS(nargsf) != 2 || names != NULL || !PyBytes_CheckExact(args[1]))
        return PyObject_Vectorcall(self->function, args, nargsf, names);
    PyObject *connection = PyObject_GetAttr(args[0], name__connection);
    PyObject *result = connection == NULL ? NULL : sending_method_to(connection, args[1]);
    Py_XDECREF(connection);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    return PyLong_FromSsize_t(PyBytes_GET_SIZE(args[1]));
}

static PyObject *
sending_method_get(PyObject *self, PyObject *object, PyObject *Py_UNUSED(type))
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

static PyObject *
sending_method_getattr(SendingMethod *self, PyObject *name) /* all else is the function's */
{
    PyObject *found = PyObject_GenericGetAttr((PyObject *)self, name);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        found = PyObject_GetAttr(self->function, name);
    }
    return found;
}

static PyObject *
sending_method_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *function;
    if (!PyArg_ParseTuple(args, "O:SendingMethod", &function))
        return NULL;
    SendingMethod *self = (SendingMethod *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = (vectorcallfunc)sending_method_call;
    self->function = Py_NewRef(function);
    return (PyObject *)self;
}

#define SENDING_METHOD_OBJECTS(DO) DO(function)
KEEPS_OBJECTS(SendingMethod, sending_method, SENDING_METHOD_OBJECTS)

static PyObject *
sending_method_text(SendingMethod *self, void *name)
{
    return PyObject_GetAttrString(self->function, name);
}

static PyObject *
sending_method_repr(SendingMethod *self)
{
    return PyObject_Repr(self->function);
}

static PyObject *
sending_method_reduce(SendingMethod *self, PyObject *Py_UNUSED(ignored)) /* by its name, as a function */
{
    return PyObject_GetAttrString(self->function, "__qualname__");
}

static PyMemberDef sending_method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(SendingMethod, call), READONLY, NULL},
    {"__wrapped__", T_OBJECT_EX, offsetof(SendingMethod, function), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef sending_method_properties[] = {
    {"__doc__", (getter)sending_method_text, NULL, NULL, "__doc__"},
    {"__module__", (getter)sending_method_text, NULL, NULL, "__module__"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef sending_method_methods[] = {
    {"__reduce__", (PyCFunction)sending_method_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sending_method_slots[] = {
    {Py_tp_new, sending_method_new},
    {Py_tp_repr, sending_method_repr},
    {Py_tp_methods, sending_method_methods},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, sending_method_get},
    {Py_tp_getattro, sending_method_getattr},
    {Py_tp_members, sending_method_members},
    {Py_tp_getset, sending_method_properties},
    {Py_tp_traverse, sending_method_traverse},
    {Py_tp_clear, sending_method_clear},
    {Py_tp_dealloc, sending_method_dealloc},
    {0, NULL},
};

static PyType_Spec sending_method_spec = {
    "simplesockets._speedups.SendingMethod", sizeof(SendingMethod), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    sending_method_slots,
};

/* ---------------------------------------------------------------------------------------------------- Storage */

typedef struct {
    PyObject_HEAD
    char value;
    long rises;
} Switch;

static PyMemberDef switch_members[] = {
    {"_value", T_BOOL, offsetof(Switch, value), 0, NULL},
    {"_rises", T_LONG, offsetof(Switch, rises), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define NO_OBJECTS(DO) (void)self;
KEEPS_OBJECTS(Switch, switch, NO_OBJECTS)
BASE_CLASS(Switch, switch, no_methods)

static PyTypeObject *switch_type;

typedef struct {
    PyObject_HEAD
    PyObject *bell, *waiting, *lock, *new_data, *events, *items, *held, *paused, *straight;
    long long total, client_mark, total_mark, item_cost, source_cost;
} Storage;

static PyTypeObject *storage_type;

static Lock *
storage_take_lock(Storage *self) /* a new reference; NULL, without an exception, if this is not the short way */
{
    if (self->lock == NULL || !Py_IS_TYPE(self->lock, lock_type) || self->new_data == NULL || self->events == NULL ||
        !PyObject_TypeCheck(self->new_data, switch_type) || self->items == NULL || !PyList_Check(self->items) ||
        self->held == NULL || !PyDict_CheckExact(self->held) || self->paused == NULL || !PySet_Check(self->paused) ||
        self->waiting == NULL || !PySet_Check(self->waiting) || !lock_take((Lock *)self->lock))
        return NULL;
    return (Lock *)Py_NewRef(self->lock);
}

static int
storage_count(Storage *self, PyObject *source, long long cost) /* gives whether it is full */
{
    PyObject *before = PyDict_GetItemWithError(self->held, source);
    if (before == NULL && PyErr_Occurred())
        return -1;
    long long held = before == NULL ? 0 : PyLong_AsLongLong(before);
    if (held == -1 && PyErr_Occurred())
        return -1;
    held += cost;
    PyObject *after = PyLong_FromLongLong(held);
    int failed = after == NULL || PyDict_SetItem(self->held, source, after) < 0;
    Py_XDECREF(after);
    if (failed)
        return -1;
    self->total += before == NULL ? cost + self->source_cost : cost;
    int full = held >= self->client_mark || self->total >= self->total_mark;
    return full && PySet_Add(self->paused, source) < 0 ? -1 : full;
}

static int
storage_store(Storage *self, PyObject *source, PyObject *item, Py_ssize_t size) /* with the lock; as storage_count() */
{
    if (PyList_Append(self->items, item) < 0)
        return -1;
    int full = storage_count(self, source, size + self->item_cost);
    Switch *flag = (Switch *)self->new_data;
    if (full < 0 || flag->value)
        return full;
    PyObject *stamp = PyObject_GetAttr(item, name__stamp);
    int failed = stamp == NULL || PyObject_SetAttr(self->events, name__data_since, stamp) < 0;
    Py_XDECREF(stamp);
    flag->rises++;
    flag->value = 1;
    return failed ? -1 : full;
}

static int
storage_goes_straight(Storage *self, PyObject *source) /* the source is a Stepper, and straight is set */
{
    PyObject *straight = self->straight;
    if (!PyTuple_CheckExact(straight) || PyTuple_GET_SIZE(straight) != 2 || PyList_GET_SIZE(self->items) > 0)
        return 0;
    unsigned long whose = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(straight, 0));
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return whose == ((Stepper *)source)->served_by;
}

static int
storage_put_in_full(Storage *self, PyObject *source, PyObject *item, Py_ssize_t size)
{
    PyObject *full = PyObject_CallMethod((PyObject *)self, "_put_in_full", "OOn", source, item, size);
    int answer = full == NULL ? -1 : PyObject_IsTrue(full);
    Py_XDECREF(full);
    return answer;
}

static int
storage_put_item(Storage *self, PyObject *source, PyObject *item, Py_ssize_t size) /* gives whether it is full, or -1 */
{
    if (!PyObject_TypeCheck(source, stepper_type) || self->items == NULL || !PyList_Check(self->items))
        return storage_put_in_full(self, source, item, size);
    if (PyObject_SetAttr(item, name_source, source) < 0)
        return -1;
    if (self->straight != NULL && self->straight != Py_None && storage_goes_straight(self, source)) {
        PyObject *place = Py_NewRef(PyTuple_GET_ITEM(self->straight, 1));
        int good = succeeded(PyObject_CallMethodOneArg(place, name_append, item));
        Py_DECREF(place);
        return good ? 0 : -1;
    }
    Lock *lock = storage_take_lock(self);
    if (lock == NULL) {
        PyErr_Clear();
        return storage_put_in_full(self, source, item, size);
    }
    int full = storage_store(self, source, item, size);
    lock_let_go(lock);
    Py_DECREF(lock);
    if (full >= 0 && PySet_GET_SIZE(self->waiting) > 0 &&
        !succeeded(PyObject_CallMethodNoArgs(self->bell, name_ring)))
        return -1;
    return full;
}

static PyObject *
storage_put(Storage *self, PyObject *args)
{
    PyObject *source, *item;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "OOn:put", &source, &item, &size))
        return NULL;
    int full = storage_put_item(self, source, item, size);
    return full < 0 ? NULL : PyBool_FromLong(full);
}

static int
storage_has_odd_things(Storage *self) /* with the lock: events to take out, somebody who may go on */
{
    if (PySet_GET_SIZE(self->paused) > 0)
        return 1;
    PyObject *events = PyObject_GetAttr(self->events, name__events);
    int odd = events == NULL || !PyList_CheckExact(events) || PyList_GET_SIZE(events) > 0;
    Py_XDECREF(events);
    return odd;
}

static int
storage_move_to(Storage *self, PyObject *taken)
{
    if (PyObject_SetAttr(self->events, name__data_since, Py_None) < 0 ||
        PyList_SetSlice(taken, 0, 0, self->items) < 0 ||
        PyList_SetSlice(self->items, 0, PyList_GET_SIZE(self->items), NULL) < 0)
        return -1;
    PyDict_Clear(self->held);
    self->total = 0;
    ((Switch *)self->new_data)->value = 0;
    return 0;
}

static PyObject *
storage_take_present(Storage *self, PyObject *Py_UNUSED(ignored))
{
    Lock *lock = storage_take_lock(self);
    if (lock == NULL)
        return PyObject_CallMethodNoArgs((PyObject *)self, name__take_in_full);
    PyObject *taken = PyList_New(0); /* before all else: that may collect garbage, and so run code that takes, too */
    int odd = taken != NULL && storage_has_odd_things(self);
    if (taken != NULL && (odd || storage_move_to(self, taken) < 0))
        Py_CLEAR(taken);
    lock_let_go(lock);
    Py_DECREF(lock);
    if (!odd)
        return taken;
    PyErr_Clear();
    return PyObject_CallMethodNoArgs((PyObject *)self, name__take_in_full);
}

#define STORAGE_OBJECTS(DO)                                                                                           \
    DO(bell) DO(waiting) DO(lock) DO(new_data) DO(events) DO(items) DO(held) DO(paused) DO(straight)
KEEPS_OBJECTS(Storage, storage, STORAGE_OBJECTS)

static PyMemberDef storage_members[] = {
    {"bell", T_OBJECT_EX, offsetof(Storage, bell), 0, NULL},
    {"_waiting", T_OBJECT_EX, offsetof(Storage, waiting), 0, NULL},
    {"_lock", T_OBJECT_EX, offsetof(Storage, lock), 0, NULL},
    {"new_data", T_OBJECT_EX, offsetof(Storage, new_data), 0, NULL},
    {"events", T_OBJECT_EX, offsetof(Storage, events), 0, NULL},
    {"_items", T_OBJECT_EX, offsetof(Storage, items), 0, NULL},
    {"_held", T_OBJECT_EX, offsetof(Storage, held), 0, NULL},
    {"_paused", T_OBJECT_EX, offsetof(Storage, paused), 0, NULL},
    {"straight", T_OBJECT, offsetof(Storage, straight), 0, NULL},
    {"total", T_LONGLONG, offsetof(Storage, total), 0, NULL},
    {"client_mark", T_LONGLONG, offsetof(Storage, client_mark), 0, NULL},
    {"total_mark", T_LONGLONG, offsetof(Storage, total_mark), 0, NULL},
    {"_item_cost", T_LONGLONG, offsetof(Storage, item_cost), 0, NULL},
    {"_source_cost", T_LONGLONG, offsetof(Storage, source_cost), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef storage_methods[] = {
    {"put", (PyCFunction)storage_put, METH_VARARGS, NULL},
    {"take_present", (PyCFunction)storage_take_present, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

BASE_CLASS(Storage, storage, storage_methods)

/* --------------------------------------------------------------------------------------------------- Delivery */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *deliver; /* in full */
    PyObject *dispatch, *bound, *mailbox, *put, *client, *address, *source;
    PyTypeObject *make;
} Delivery;

static PyObject *
delivery_item(Delivery *self, PyObject *data)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    PyObject *stamp = PyFloat_FromDouble((double)time.tv_sec + 1e-9 * (double)time.tv_nsec);
    PyObject *item = stamp == NULL ? NULL : self->make->tp_alloc(self->make, 3);
    if (item != NULL) {
        PyTuple_SET_ITEM(item, 0, Py_NewRef(self->client));
        PyTuple_SET_ITEM(item, 1, Py_NewRef(self->address));
        PyTuple_SET_ITEM(item, 2, Py_NewRef(data));
        if (PyObject_SetAttr(item, name__stamp, stamp) < 0)
            Py_CLEAR(item);
    }
    Py_XDECREF(stamp);
    return item;
}

static int
delivery_store(Delivery *self, PyObject *data) /* gives whether it is full, or -1 */
{
    PyObject *item = delivery_item(self, data);
    int full = item == NULL ? -1
                            : storage_put_item((Storage *)self->mailbox, self->source, item, PyBytes_GET_SIZE(data));
    Py_XDECREF(item);
    return full;
}

static PyObject *
delivery_hand_over(Delivery *self, PyObject *receive, PyObject *data)
{
    PyObject *arguments[] = {NULL, self->client, self->address, data};
    PyObject *result = PyObject_Vectorcall(receive, arguments + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (result == NULL) {
        PyObject *failure = take_exception();
        result = PyObject_CallMethodObjArgs(self->dispatch, name_caught, failure, name_on_receive, NULL);
        Py_DECREF(failure);
    }
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    Py_RETURN_FALSE;
}

static int
delivery_has_room(Delivery *self) /* for what is stored and called with: as much as for one client */
{
    return ((Storage *)self->mailbox)->total < ((Storage *)self->mailbox)->client_mark;
}

static int
delivery_is_short(Delivery *self, PyObject *receive)
{
    if (!PyCFunction_Check(self->put) || PyCFunction_GET_FUNCTION(self->put) != (PyCFunction)storage_put)
        return 0;
    if (receive == Py_None || delivery_has_room(self))
        return 1;
    PyObject *told = PyObject_GetAttr(self->dispatch, name__told_full); /* or it is still to be said */
    if (told == NULL)
        PyErr_Clear();
    Py_XDECREF(told);
    return told == Py_True;
}

static PyObject *
delivery_call(Delivery *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    PyObject *bound = PyDict_GetItemWithError(self->bound, name_on_receive); /* a tuple; see Dispatch.assign() */
    PyObject *receive = bound == NULL ? NULL : Py_NewRef(PyTuple_GET_ITEM(bound, 2)), *result = NULL;
    if (receive == NULL || PyVectorcall_NARGS(nargsf) != 1 || names != NULL || !PyBytes_CheckExact(args[0]) ||
        !delivery_is_short(self, receive)) {
        Py_XDECREF(receive);
        return PyObject_Vectorcall(self->deliver, args, nargsf, names);
    }
    int full = receive == Py_None || delivery_has_room(self) ? delivery_store(self, args[0]) : 0;
    if (full >= 0 && receive != Py_None)
        result = delivery_hand_over(self, receive, args[0]);
    else if (full > 0)
        result = PyObject_CallMethodOneArg(self->dispatch, name__has_to_pause, self->source);
    else if (full == 0)
        result = Py_NewRef(Py_False);
    Py_DECREF(receive);
    return result;
}

#define DELIVERY_OBJECTS(DO)                                                                                          \
    DO(deliver) DO(dispatch) DO(bound) DO(mailbox) DO(put) DO(client) DO(address) DO(source) DO(make)
KEEPS_OBJECTS(Delivery, delivery, DELIVERY_OBJECTS)

static PyObject *
delivery_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *deliver, *dispatch, *client, *source, *make;
    if (!PyArg_ParseTuple(args, "OOOOO!:Delivery", &deliver, &dispatch, &client, &source, &PyType_Type, &make))
        return NULL;
    Delivery *self = (Delivery *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = (vectorcallfunc)delivery_call;
    self->deliver = Py_NewRef(deliver);
    self->dispatch = Py_NewRef(dispatch);
    self->client = Py_NewRef(client);
    self->source = Py_NewRef(source);
    self->make = (PyTypeObject *)Py_NewRef(make);
    self->bound = PyObject_GetAttrString(dispatch, "_bound");
    self->mailbox = PyObject_GetAttrString(dispatch, "mailbox");
    self->put = self->mailbox == NULL ? NULL : PyObject_GetAttrString(self->mailbox, "put");
    self->address = PyObject_GetAttrString(client, "address");
    int good = self->bound != NULL && self->put != NULL && self->address != NULL;
    if (good && !(PyDict_CheckExact(self->bound) && PyObject_TypeCheck(self->mailbox, storage_type) &&
                  PyType_IsSubtype(self->make, &PyTuple_Type))) {
        PyErr_SetString(PyExc_TypeError, "a dictionary of callbacks, a Storage and a type of tuples are needed");
        good = 0;
    }
    if (!good) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMemberDef delivery_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Delivery, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot delivery_slots[] = {
    {Py_tp_new, delivery_new},           {Py_tp_call, PyVectorcall_Call}, {Py_tp_members, delivery_members},
    {Py_tp_traverse, delivery_traverse}, {Py_tp_clear, delivery_clear},   {Py_tp_dealloc, delivery_dealloc},
    {0, NULL},
};

static PyType_Spec delivery_spec = {
    "simplesockets._speedups.Delivery", sizeof(Delivery), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, delivery_slots,
};

/* ------------------------------------------------------------------------------------------------------- Gate */

typedef struct {
    PyObject_HEAD
    long beats; /* changed by who has the interpreter, read by anybody */
} Pulse;

static PyMemberDef pulse_members[] = {
    {"beats", T_LONG, offsetof(Pulse, beats), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pulse_slots[] = {{Py_tp_members, pulse_members}, {0, NULL}};

static PyType_Spec pulse_spec = {"simplesockets._speedups.Pulse", sizeof(Pulse), 0, Py_TPFLAGS_DEFAULT, pulse_slots};

static PyTypeObject *pulse_type;

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    char shut; /* locked, as far as who has the interpreter knows; to unlock it twice would be one time too many */
} Gate;

static PyObject *
gate_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Gate *self = (Gate *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(self->lock, NOWAIT_LOCK);
    self->shut = 1;
    return (PyObject *)self;
}

static void
gate_dealloc(Gate *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->lock != NULL) {
        if (self->shut)
            PyThread_release_lock(self->lock);
        PyThread_free_lock(self->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyLockStatus
gate_wait(Gate *self, double seconds) /* without the interpreter */
{
    return PyThread_acquire_lock_timed(self->lock, in_microseconds(seconds), 0);
}

static PyObject *
gate_sleep(Gate *self, PyObject *args)
{
    double timeout = -1;
    if (!PyArg_ParseTuple(args, "|d:sleep", &timeout))
        return NULL;
    PyLockStatus status;
    Py_BEGIN_ALLOW_THREADS
    status = gate_wait(self, timeout);
    Py_END_ALLOW_THREADS
    self->shut |= status == PY_LOCK_ACQUIRED;
    return PyBool_FromLong(status == PY_LOCK_ACQUIRED);
}

static PyObject *
gate_watch(Gate *self, PyObject *args)
{
    double seconds;
    Pulse *pulse;
    if (!PyArg_ParseTuple(args, "O!d:watch", pulse_type, &pulse, &seconds))
        return NULL;
    PyLockStatus status;
    long before;
    Py_BEGIN_ALLOW_THREADS
    do {
        before = __atomic_load_n(&pulse->beats, __ATOMIC_RELAXED);
        status = gate_wait(self, seconds);
    } while (status == PY_LOCK_FAILURE && __atomic_load_n(&pulse->beats, __ATOMIC_RELAXED) != before);
    Py_END_ALLOW_THREADS
    self->shut |= status == PY_LOCK_ACQUIRED;
    return PyLong_FromLong(before);
}

static PyObject *
gate_open(Gate *self, PyObject *Py_UNUSED(ignored))
{
    if (self->shut) {
        self->shut = 0;
        PyThread_release_lock(self->lock);
    }
    Py_RETURN_NONE;
}

static PyMethodDef gate_methods[] = {
    {"sleep", (PyCFunction)gate_sleep, METH_VARARGS, NULL},
    {"watch", (PyCFunction)gate_watch, METH_VARARGS, NULL},
    {"open", (PyCFunction)gate_open, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot gate_slots[] = {
    {Py_tp_new, gate_new}, {Py_tp_dealloc, gate_dealloc}, {Py_tp_methods, gate_methods}, {0, NULL},
};

static PyType_Spec gate_spec = {"simplesockets._speedups.Gate", sizeof(Gate), 0, Py_TPFLAGS_DEFAULT, gate_slots};

/* ---------------------------------------------------------------------------------------------------- Attendant */

typedef struct {
    PyObject_HEAD
    PyObject *step;
    char odd;
} Steppable;

#define STEPPABLE_OBJECTS(DO) DO(step)
KEEPS_OBJECTS(Steppable, steppable, STEPPABLE_OBJECTS)

static PyMemberDef steppable_members[] = {
    {"step", T_OBJECT_EX, offsetof(Steppable, step), 0, NULL},
    {"odd", T_BOOL, offsetof(Steppable, odd), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

BASE_CLASS(Steppable, steppable, no_methods)

typedef struct {
    PyObject_HEAD
    PyObject *serving;
    unsigned long outsider;
    char waits;
} Leading;

#define LEADING_OBJECTS(DO) DO(serving)
KEEPS_OBJECTS(Leading, leading, LEADING_OBJECTS)

static PyMemberDef leading_members[] = {
    {"serving", T_OBJECT, offsetof(Leading, serving), 0, NULL},
    {"outsider", T_ULONG, offsetof(Leading, outsider), 0, NULL},
    {"waits", T_BOOL, offsetof(Leading, waits), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

BASE_CLASS(Leading, leading, no_methods)

typedef struct {
    PyObject_HEAD
    PyObject *leader, *parked, *terms, *waiting, *poll, *pulse;
    double longest;
    Py_ssize_t most;
    char dozing;
} Attendant;

static PyTypeObject *steppable_type, *leading_type;

static void
serves(Leading *term, PyObject *parked) /* or nobody: NULL */
{
    PyObject *former = term->serving;
    term->serving = Py_XNewRef(parked);
    Py_XDECREF(former);
}

static int
serves_nobody(Leading *term)
{
    return term->serving == NULL || term->serving == Py_None;
}

static int
read_at_of(PyObject *parked, double *read_at)
{
    PyObject *connection = PyObject_GetAttr(parked, name_connection);
    PyObject *time = connection == NULL ? NULL : PyObject_GetAttr(connection, name_read_at);
    *read_at = time == NULL ? -1 : PyFloat_AsDouble(time);
    Py_XDECREF(connection);
    Py_XDECREF(time);
    return !PyErr_Occurred();
}

static PyObject *
attendant_step(PyObject *parked, double *read_at) /* it is a Steppable; read_at may be NULL */
{
    PyObject *step = ((Steppable *)parked)->step;
    if (step == NULL) {
        PyErr_SetString(PyExc_AttributeError, "step");
        return NULL;
    }
    Py_INCREF(step);
    PyObject *outcome;
    if (PyCFunction_Check(step) && PyCFunction_GET_FUNCTION(step) == (PyCFunction)stepper_step) {
        Stepper *stepper = (Stepper *)PyCFunction_GET_SELF(step);
        outcome = stepper_step(stepper, NULL);
        if (read_at != NULL)
            *read_at = stepper->read_at;
    }
    else {
        outcome = PyObject_CallNoArgs(step);
        if (outcome != NULL && read_at != NULL && !read_at_of(parked, read_at))
            Py_CLEAR(outcome);
    }
    Py_DECREF(step);
    return outcome;
}

static int
attendant_serve_one(PyObject *self, PyObject *term, PyObject *parked, PyObject *event, double slow, double *clock)
{
    /* Told when the last one was done, if those that take longer than slow are looked for; changes it then. */
    long events = PyLong_AsLong(event);
    if (events == -1 && PyErr_Occurred())
        return 0;
    if (!PyObject_TypeCheck(parked, steppable_type)) {
        PyErr_SetString(PyExc_TypeError, "what is parked has to be a Steppable");
        return 0;
    }
    if (events != EPOLLIN || ((Steppable *)parked)->odd) {
        int good = succeeded(PyObject_CallMethodObjArgs(self, name__serve_odd, term, parked, event, NULL));
        *clock = now();
        return good;
    }
    int timed = slow >= 0;
    double began = *clock, read_at = -1;
    PyObject *outcome = attendant_step(parked, timed ? &read_at : NULL);
    if (outcome == NULL)
        return 0;
    int good = 1;
    if (timed) {
        *clock = now();
        if (read_at > began && *clock - read_at > slow)
            good = succeeded(PyObject_CallMethod(self, "_took_long", "OOOdd", term, parked, outcome, read_at - began,
                                                 *clock - read_at));
    }
    if (good && outcome != more)
        good = succeeded(PyObject_CallMethodObjArgs(self, name__stepped, parked, outcome, NULL));
    Py_DECREF(outcome);
    return good;
}

static int
attendant_serve_all(Attendant *self, Leading *term, PyObject *events, PyObject *parked_at, Pulse *pulse, double slow)
{
    double clock = slow >= 0 ? now() : 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(events); i++) {
        PyObject *pair = PyList_GET_ITEM(events, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "events are pairs of descriptor and event");
            return 0;
        }
        PyObject *fd = PyTuple_GET_ITEM(pair, 0);
        pulse->beats++;
        PyObject *parked = PyDict_GetItemWithError(parked_at, fd);
        if (parked == NULL) {
            if (PyErr_Occurred() ||
                !succeeded(PyObject_CallMethodObjArgs((PyObject *)self, name__not_parked, term, fd, NULL)))
                return 0;
            continue;
        }
        Py_INCREF(parked);
        serves(term, parked);
        int leads = self->leader == (PyObject *)term;
        int good = !leads || attendant_serve_one((PyObject *)self, (PyObject *)term, parked, PyTuple_GET_ITEM(pair, 1),
                                                 slow, &clock);
        Py_DECREF(parked);
        if (!good)
            return 0;
        if (!leads) /* what it leaves is reported to the next */
            break;
    }
    serves(term, NULL);
    return 1;
}

static int
attendant_serve(Attendant *self, PyObject *term, PyObject *events, double slow)
{
    if (self->parked == NULL || !PyDict_CheckExact(self->parked) || self->pulse == NULL ||
        !Py_IS_TYPE(self->pulse, pulse_type) || !PyObject_TypeCheck(term, leading_type)) {
        PyErr_SetString(PyExc_TypeError, "a dictionary, a Pulse and a Leading are needed");
        return 0;
    }
    PyObject *parked_at = Py_NewRef(self->parked), *pulse = Py_NewRef(self->pulse);
    int good = attendant_serve_all(self, (Leading *)term, events, parked_at, (Pulse *)pulse, slow);
    Py_DECREF(parked_at);
    Py_DECREF(pulse);
    return good;
}

static PyObject *
attendant_serve_events(Attendant *self, PyObject *args)
{
    PyObject *term, *events;
    double slow = -1;
    if (!PyArg_ParseTuple(args, "OO!|d:_serve", &term, &PyList_Type, &events, &slow))
        return NULL;
    return attendant_serve(self, term, events, slow) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
attendant_poll(Attendant *self, PyObject *ready, double timeout)
{
    /* Wait, unless it is ready. NULL with an exception set, or without one if there was no need to wait. */
    PyObject *is_ready = PyObject_CallNoArgs(ready);
    int waits = is_ready == NULL ? -1 : !PyObject_IsTrue(is_ready);
    Py_XDECREF(is_ready);
    if (waits <= 0)
        return NULL;
    PyObject *poll = Py_NewRef(self->poll), *events = PyObject_CallFunction(poll, "dn", timeout, self->most);
    Py_DECREF(poll);
    if (events != NULL && !PyList_CheckExact(events)) {
        PyErr_SetString(PyExc_TypeError, "events come in a list");
        Py_CLEAR(events);
    }
    return events;
}

static int
attendant_lead_once(Attendant *self, Leading *term, PyObject *ready, double timeout)
{
    term->waits = 1;
    if (PySet_Add(self->terms, (PyObject *)term) < 0)
        return 0;
    if (self->leader != (PyObject *)term)
        return 1;
    /* Whoever changes a flag from now on wakes us; so the flags are looked at after this. */
    if (PySet_Add(self->waiting, (PyObject *)term) < 0)
        return 0;
    PyObject *events = attendant_poll(self, ready, timeout);
    if (events == NULL && PyErr_Occurred())
        return 0;
    PySet_Discard(self->waiting, (PyObject *)term);
    term->waits = 0;
    int good = events == NULL || attendant_serve(self, (PyObject *)term, events, -1);
    Py_XDECREF(events);
    return good;
}

static int
attendant_come_out(Attendant *self, PyObject *term, PyObject *failure) /* which may be NULL; takes the reference */
{
    if (!succeeded(PyObject_CallMethodOneArg((PyObject *)self, name__come_out, term))) {
        Py_XSETREF(failure, take_exception()); /* what came last counts */
        if (!succeeded(PyObject_CallMethodOneArg((PyObject *)self, name__give_up, term)))
            Py_XSETREF(failure, take_exception());
    }
    if (failure != NULL)
        raise_again(failure);
    return failure == NULL;
}

static PyObject *
attendant_lead(Attendant *self, PyObject *const *args, Py_ssize_t count)
{
    Leading *term = (Leading *)self->leader;
    double timeout = count == 2 ? PyFloat_AsDouble(args[0]) : -1;
    if (timeout < 0 || term == NULL || !PyObject_TypeCheck((PyObject *)term, leading_type) ||
        term->outsider != PyThread_get_thread_ident() || self->poll == NULL || self->terms == NULL ||
        self->waiting == NULL || !Py_IS_TYPE(self->terms, &PySet_Type) || !Py_IS_TYPE(self->waiting, &PySet_Type) ||
        PySet_Contains(self->terms, (PyObject *)term) != 0) {
        PyErr_Clear();
        PyObject *full = PyObject_GetAttr((PyObject *)self, name__lead_in_full);
        PyObject *result = full == NULL ? NULL : PyObject_Vectorcall(full, args, count, NULL);
        Py_XDECREF(full);
        return result;
    }
    Py_INCREF(term);
    int good = attendant_lead_once(self, term, args[1], Py_MIN(timeout, self->longest));
    if (good && !term->waits && serves_nobody(term) && !self->dozing && self->leader == (PyObject *)term)
        good = PySet_Discard(self->terms, (PyObject *)term) >= 0;
    else /* a signal handler may have raised, in this thread of the program's; and may do so again */
        good = attendant_come_out(self, (PyObject *)term, good ? NULL : take_exception());
    Py_DECREF(term);
    return good ? Py_NewRef(Py_True) : NULL;
}

#define ATTENDANT_OBJECTS(DO) DO(leader) DO(parked) DO(terms) DO(waiting) DO(poll) DO(pulse)
KEEPS_OBJECTS(Attendant, attendant, ATTENDANT_OBJECTS)

static PyMemberDef attendant_members[] = {
    {"_leader", T_OBJECT, offsetof(Attendant, leader), 0, NULL},
    {"_parked", T_OBJECT_EX, offsetof(Attendant, parked), 0, NULL},
    {"_terms", T_OBJECT_EX, offsetof(Attendant, terms), 0, NULL},
    {"_waiting", T_OBJECT_EX, offsetof(Attendant, waiting), 0, NULL},
    {"_poll", T_OBJECT_EX, offsetof(Attendant, poll), 0, NULL},
    {"_pulse", T_OBJECT_EX, offsetof(Attendant, pulse), 0, NULL},
    {"_longest", T_DOUBLE, offsetof(Attendant, longest), 0, NULL},
    {"_most", T_PYSSIZET, offsetof(Attendant, most), 0, NULL},
    {"_dozing", T_BOOL, offsetof(Attendant, dozing), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef attendant_methods[] = {
    {"lead", (PyCFunction)(void (*)(void))attendant_lead, METH_FASTCALL, NULL},
    {"_serve", (PyCFunction)attendant_serve_events, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

BASE_CLASS(Attendant, attendant, attendant_methods)

/* ----------------------------------------------------------------------------------------------------- module */

static PyObject *
use(PyObject *Py_UNUSED(module), PyObject *args)
{
    if (!PyArg_ParseTuple(args, "OOOO:use", &more, &paused, &nothing, &done))
        return NULL;
    Py_INCREF(more);
    Py_INCREF(paused);
    Py_INCREF(nothing);
    Py_INCREF(done);
    Py_RETURN_NONE;
}

static int
find_socket_method(PyObject *type, const char *name, PyCFunction *found)
{
    PyObject *method = PyObject_GetAttrString(type, name);
    if (method == NULL)
        return -1;
    if (!Py_IS_TYPE(method, &PyMethodDescr_Type)) {
        PyErr_Format(PyExc_ImportError, "sockets have another %s() here", name);
        Py_DECREF(method);
        return -1;
    }
    *found = ((PyMethodDescrObject *)method)->d_method->ml_meth;
    Py_DECREF(method);
    return 0;
}

static int
find_socket_methods(void)
{
    PyObject *sockets = PyImport_ImportModule("_socket");
    PyObject *type = sockets == NULL ? NULL : PyObject_GetAttrString(sockets, "socket");
    int failed = type == NULL || find_socket_method(type, "recv", &socket_recv) < 0 ||
                 find_socket_method(type, "send", &socket_send) < 0 ||
                 find_socket_method(type, "fileno", &socket_fileno) < 0;
    Py_XDECREF(type);
    Py_XDECREF(sockets);
    return failed ? -1 : 0;
}

static PyMethodDef module_methods[] = {
    {"use", use, METH_VARARGS, "use(more, paused, nothing, done): the outcomes that a step gives."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "_speedups", "See hotpath.py.", -1, module_methods, NULL, NULL, NULL, NULL,
};

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(spec);
    if (type == NULL || PyModule_AddType(module, type) < 0)
        return NULL;
    return type; /* for ever, as the module */
}

PyMODINIT_FUNC
PyInit__speedups(void)
{
#define INTERN(NAME)                                                                                                  \
    if ((name_##NAME = PyUnicode_InternFromString(#NAME)) == NULL)                                                    \
        return NULL;
    NAMES(INTERN)
    if (find_socket_methods() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&module_def);
    if (module == NULL || (lock_type = add_type(module, &lock_spec)) == NULL ||
        (sender_type = add_type(module, &sender_spec)) == NULL || add_type(module, &poster_spec) == NULL ||
        (stepper_type = add_type(module, &stepper_spec)) == NULL ||
        add_type(module, &sending_method_spec) == NULL || (switch_type = add_type(module, &switch_spec)) == NULL ||
        (storage_type = add_type(module, &storage_spec)) == NULL || add_type(module, &delivery_spec) == NULL ||
        (pulse_type = add_type(module, &pulse_spec)) == NULL || add_type(module, &gate_spec) == NULL ||
        (steppable_type = add_type(module, &steppable_spec)) == NULL ||
        (leading_type = add_type(module, &leading_spec)) == NULL || add_type(module, &attendant_spec) == NULL ||
        PyModule_AddIntConstant(module, "REVISION", REVISION) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
